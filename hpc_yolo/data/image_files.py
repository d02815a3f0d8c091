"""Image files of a split: all below its directories, and those in its lists. Needs neither torch nor OpenCV."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.units import counted
from hpc_yolo.data.files import is_dir, members_below, plain_directory, split_suffix
from hpc_yolo.data.image_lists import read_image_list
from hpc_yolo.data.image_suffixes import DATASET_SUFFIXES, UNREADABLE_SUFFIXES

HIDDEN = f"{os.sep}."  # in a path: a name that begins with a dot


@dataclass(frozen=True)
class FoundImages:
    """Images of a split by path.

    Attributes:
        problems: lines of lists for which no image was found, a sentence each.
        notes: remarks on how images were found, a sentence each.
    """

    paths: tuple[Path, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


def find_images(split: Iterable[Path], root: Path | None = None) -> FoundImages:
    """Return the images in the directories and lists `split`, each once.

    Args:
        root: a further directory to which paths in lists may be relative.

    Raises:
        DataError: there is none, a directory or list cannot be read, or lines of a list are ambiguous.
    """
    split = tuple(split)
    images: set[str] = set()
    problems: list[str] = []
    notes: list[str] = []
    skipped: Counter[str] = Counter()
    for source in split:
        if is_dir(source):
            files: Iterable[str] = files_below(source)
        else:
            listed = read_image_list(source, root)
            files, problems = map(str, listed.paths), [*problems, *listed.problems]
            notes += [listed.note] if listed.note else []
        for file in files:
            suffix = split_suffix(file)[1].lower()
            if suffix in DATASET_SUFFIXES:
                images.add(file)
            elif suffix in UNREADABLE_SUFFIXES:
                skipped[suffix] += 1
    if not images:
        raise _nothing_found(split, problems, skipped)
    if skipped:
        notes.append(skipped_message(skipped))
    ordered = sorted(images, key=_by_parts)
    paths = ordered if len(split) == 1 else _each_once(ordered)
    return FoundImages(tuple(map(Path, paths)), tuple(problems), tuple(notes))


def _each_once(paths: Iterable[str]) -> Iterable[str]:
    """Return `paths` with each file once: lists have absolute paths, and directories those that are written."""
    plain = functools.cache(lambda directory: str(plain_directory(Path(directory).absolute())))
    first: dict[tuple[str, str], str] = {}
    for path in paths:
        directory, name = os.path.split(path)
        first.setdefault((plain(directory), name), path)
    return first.values()


def _by_parts(path: str) -> str:
    """Return a key for the order of paths by their parts, as `Path` has it but much faster."""
    parts = path.replace(os.sep, "\0")
    return os.sep + parts if parts.startswith("\0") else parts


def skipped_message(skipped: Mapping[str, int]) -> str:
    """Return a message on image files that are skipped, by suffix, with the remedy."""
    suffixes = ", ".join(f"{suffix} ({number})" for suffix, number in sorted(skipped.items()))
    files = counted(sum(skipped.values()), "file")
    return f"{files} skipped, OpenCV does not decode them: {suffixes}; convert them to JPEG or PNG"


def _nothing_found(split: tuple[Path, ...], problems: list[str], skipped: Mapping[str, int]) -> DataError:
    where = ", ".join(map(str, split))
    if problems:
        first = "\n  ".join(problems[:3])
        return DataError(
            f"no images in {where}: {counted(len(problems), 'line')} cannot be used\n  {first}",
            hint="write paths that are absolute or relative to the directory of the list",
        )
    hint = f"images end in {', '.join(sorted(DATASET_SUFFIXES))}"
    if skipped:
        hint = skipped_message(skipped)
    elif (hidden := _hidden_image(split)) is not None:
        hint = f"files and directories that begin with a dot are hidden: {hidden}; rename them to use their images"
    for suffix, kind in ((".xml", "voc"), (".json", "coco")):
        if any(next(source.glob(f"*{suffix}"), None) for source in split):
            hint = f"it has {suffix} files: labels of Pascal VOC or COCO need format: {kind} in the dataset YAML"
    return DataError(f"no images in {where}", hint=hint)


def _hidden_image(split: tuple[Path, ...]) -> str | None:
    """Return a hidden image in a directory of `split`; None where there is none."""
    files = (file for source in split if is_dir(source) for file in files_below(source, with_hidden=True))
    return next((file for file in files if split_suffix(file)[1].lower() in DATASET_SUFFIXES), None)


def files_below(directory: Path, *, with_hidden: bool = False) -> Iterator[str]:
    """Yield all files below `directory`, following links, each directory once.

    Hidden files and directories are left out: copies of images that programs keep for themselves have no labels.

    Args:
        with_hidden: leave none out.

    Raises:
        DataError: a directory cannot be listed.
    """
    if (members := members_below(directory)) is not None:
        start = len(str(plain_directory(directory)))  # as members are named
        yield from (name for name in map(str, members) if with_hidden or HIDDEN not in name[start:])
        return
    seen = set()
    for parent, directories, files in os.walk(directory, followlinks=True, onerror=_refuse_directory):
        if (real := os.path.realpath(parent)) in seen:
            directories.clear()
            continue
        seen.add(real)
        prefix = str(Path(parent, "*"))[:-1]
        if not with_hidden:
            directories[:] = [name for name in directories if not name.startswith(".")]
            files = [name for name in files if not name.startswith(".")]
        yield from (prefix + name for name in files)


def _refuse_directory(error: OSError) -> None:
    """Raise the error of a directory that cannot be listed; `os.walk` would skip it silently."""
    raise DataError(f"{error.filename}: cannot be listed: {error.strerror}") from error
