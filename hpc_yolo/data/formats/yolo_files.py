"""The label files of the YOLO layout: their names, and explanations of missing ones."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

from hpc_yolo.data.files import exists, is_dir, names_in, split_suffix

IMAGES, LABELS, LABEL_SUFFIX = "images", "labels", ".txt"
MAX_LISTED = 5
OTHER_FORMATS = frozenset([".csv", ".json", ".xml", ".yaml"])


def label_path(image: Path) -> Path:
    """Return the label file of `image`: the last directory named images becomes labels, the suffix .txt."""
    return Path(label_name(str(image)))


def label_name(image: str) -> str:
    """Return `label_path` as text, which is much faster."""
    directory, slash, name = image.rpartition(os.sep)
    before, found, below = f"{os.sep}{directory}{os.sep}".rpartition(f"{os.sep}{IMAGES}{os.sep}")
    if found:
        directory = f"{before}{os.sep}{LABELS}{os.sep}{below}"[1:-1]
    return directory + slash + split_suffix(name)[0] + LABEL_SUFFIX


class NearMisses:
    """Finds files that were meant as label files but have another name: a.TXT, a.jpg.txt; also of VOC's XML files.

    Each directory is listed once.

    Args:
        labels: return all label files that images of the split may have; none of them is a near miss.
    """

    def __init__(self, labels: Callable[[], Iterable[str]]) -> None:
        self._labels = labels
        self._names: dict[Path, dict[str, list[str]]] = {}

    @cached_property
    def _expected(self) -> set[str]:
        return set(self._labels())

    def find(self, image: Path, label: Path) -> Path | None:
        """Return the file that was probably meant as the missing `label` of `image`, or None."""
        names = self._names_in(label.parent)
        meant = [name for form in (label.name, image.name + label.suffix) for name in names.get(_folded(form), [])]
        files = (label.with_name(name) for name in meant)
        return next((file for file in files if file != label and str(file) not in self._expected), None)

    def _names_in(self, directory: Path) -> dict[str, list[str]]:
        if directory not in self._names:
            names: dict[str, list[str]] = {}
            for name in _list(directory):
                names.setdefault(_folded(name), []).append(name)
            self._names[directory] = names
        return self._names[directory]


def explain_missing(image: Path, *, are_all_missing: bool = False) -> str:
    """Return why `image` may have no label file: what its directories have instead; "" if unknown.

    Args:
        are_all_missing: no image of the split has a label file, so that the files there belong to no image.
    """
    label = label_path(image)
    beside = image.with_suffix(LABEL_SUFFIX)
    if beside != label and exists(beside):
        return f"{beside} exists, but labels beside images are read only if no directory above is called {IMAGES}"
    if not is_dir(label.parent):
        return _explain_missing_directory(label.parent)
    names = _list(label.parent)
    if not any(not name.startswith(".") for name in names):
        return f"{label.parent} is empty"
    others = sorted({Path(name).suffix for name in names} & OTHER_FORMATS)
    if others:
        return f"{label.parent} has {', '.join(others)} files; other labels need format: coco or format: voc"
    unmatched = [name for name in names if name.endswith(LABEL_SUFFIX)] if are_all_missing else []
    return f"the {LABEL_SUFFIX} files in {label.parent} have other names, such as {unmatched[0]}" if unmatched else ""


def _explain_missing_directory(directory: Path) -> str:
    """Name the first missing directory on the way to `directory`, and directories beside it that may be meant."""
    missing = directory
    while not is_dir(missing.parent):
        missing = missing.parent
    if missing.is_symlink():
        return f"{missing} is a link to {missing.readlink()}, which does not exist"
    beside = [name for name in _list(missing.parent) if is_dir(missing.parent / name)]
    meant = [name for name in beside if _is_like(name, missing.name)][:MAX_LISTED]
    return f"there is no directory {missing}" + (f"; beside it is {', '.join(meant)}" if meant else "")


def _is_like(name: str, wanted: str) -> bool:
    lowered = name.lower()
    return any(start in lowered for start in ("label", "annot", wanted.lower()))


def _folded(name: str) -> str:
    """Return `name` for comparisons: case-folded, accents composed."""
    return unicodedata.normalize("NFC", name).casefold()


def _list(directory: Path) -> Sequence[str]:
    try:
        return names_in(directory)
    except OSError:
        return []
