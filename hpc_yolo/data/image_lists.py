"""Lists of images as labelling tools write them.

They have one path a line, often relative to another directory than that of the list, or absolute on another machine.
"""

from __future__ import annotations

import os
import unicodedata
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.units import counted
from hpc_yolo.data.archives.archive import archive_on
from hpc_yolo.data.files import exists, is_dir, plain_directory, read_bytes
from hpc_yolo.data.image_suffixes import DATASET_SUFFIXES, UNREADABLE_SUFFIXES

MAX_PARENTS = 3  # directories above that of the list to which its paths may be relative
MAX_SHOWN = 3
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
COMMENT = "#"
ADDRESSES = ("http://", "https://", "s3://", "gs://")


@dataclass(frozen=True)
class ImageList:
    """The images of a list.

    Attributes:
        problems: lines for which no image was found, a sentence each with the line's number.
        note: a remark on how images were found, or "".
    """

    paths: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    note: str = ""


def read_image_list(source: Path, root: Path | None = None) -> ImageList:
    """Return the images of the list `source`, including those of suffixes that OpenCV cannot decode.

    A path is tried as it is written, relative to the list's directory, to `root`, to the working directory and to
    directories above the list's; then without its first directories.

    Raises:
        DataError: the list cannot be read, is not a list, or two lines name the same image.
    """
    lines = list(list_lines(source))
    if lines and not any(Path(line).suffix.lower() in DATASET_SUFFIXES | UNREADABLE_SUFFIXES for _, line in lines):
        raise DataError(
            f"{source} is not a list of images: none of its lines ends in the suffix of one",
            hint=_format_hint(source),
        )
    search = ImageSearch(source, root)
    found = ImageList()
    for number, line in lines:
        where = f"{source}:{number}"
        if line.lower().startswith(ADDRESSES):
            found.problems.append(f"{where}: {line} is an address; images are read from files")
        elif Path(line).suffix.lower() not in DATASET_SUFFIXES | UNREADABLE_SUFFIXES:
            found.problems.append(f"{where}: {line[:80]!r} does not end in the suffix of an image")
        elif (path := search.find(line, where)) is not None:
            found.paths.append(path)
        else:
            found.problems.append(f"{where}: {line} does not exist (looked for {search.describe(line)})")
    return replace(found, note=search.note(source))


def _format_hint(source: Path) -> str:
    """Return what a file that is no list of images may be instead."""
    if source.suffix.lower() == ".json":
        return "annotations in COCO's format need format: coco in the dataset YAML"
    if "ImageSets" in source.parts:
        return "lists of Pascal VOC need format: voc in the dataset YAML"
    return "a split is a directory of images, or a text file with the path of one on each line"


def list_lines(source: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, path) of each line that has one, without quotes, byte order mark and file://.

    Raises:
        DataError: the list cannot be read, or is not text.
    """
    try:
        content = read_bytes(source)
    except OSError as error:
        raise DataError(f"{source} is not a list of images: it cannot be read: {error.strerror}") from error
    try:
        text = _decoded(content)
    except UnicodeDecodeError:
        raise DataError(f"{source} is not a list of images: it is not text") from None
    for number, line in enumerate(text.split("\n"), 1):
        if written := _cleaned(line):
            yield number, written


def _decoded(content: bytes) -> str:
    """Return the text of a list: UTF-16 if marked so, otherwise UTF-8, with bytes of old code pages as surrogates."""
    if content.startswith(UTF_16_MARKS):
        return content.decode("utf-16")
    text = content.decode("utf-8-sig", "surrogateescape")
    if "\x00" in text:
        raise UnicodeDecodeError("utf-8", content, content.index(0), content.index(0) + 1, "a zero byte")
    return text


def _cleaned(line: str) -> str:
    written = line.strip().rstrip(",;").strip("\"'").strip()
    if written.lower().startswith("file://"):
        return urllib.request.url2pathname(urllib.parse.urlsplit(written).path)
    is_comment = written.startswith(COMMENT) and Path(written).suffix.lower() not in DATASET_SUFFIXES
    return "" if is_comment else written


class ImageSearch:
    """Finds the files for the paths of a list. Each directory of the list is looked up once."""

    def __init__(self, source: Path, root: Path | None = None) -> None:
        directory = source.absolute().parent
        above = [parent for parent in list(directory.parents)[:MAX_PARENTS] if parent != parent.parent]
        roots = [root.absolute()] if root is not None else []
        self._archive = archive_on(source.absolute())
        self._root = (root or source.parent).absolute()
        self._plain_root = plain_directory(self._root)
        self._directory, self._known = directory, [directory, *roots, *above]
        self._bases = list(dict.fromkeys([directory, *roots, Path.cwd(), *above]))
        self._directories: dict[Path, list[tuple[Path, bool]]] = {}
        self._shortened: dict[Path, Path] = {}

    def find(self, line: str, where: str) -> Path | None:
        """Return the file for the path `line`, or None.

        Raises:
            DataError: an earlier line, without its first directories, matched the same file.
        """
        for written in _readings(line):
            for directory, is_shortened in self._candidates(written.parent):
                path = directory / written.name
                if not exists(path):
                    continue
                if is_shortened and self._shortened.setdefault(path, written) != written:
                    raise DataError(
                        f"{where}: {written} and {self._shortened[path]} do not exist, and without their first "
                        f"directories both are {path}",
                        hint="write paths that are absolute or relative to the directory of the list",
                    )
                return path
        return None

    def note(self, source: Path) -> str:
        """Return a remark on files that were found without their first directories, with one of them; "" if none."""
        if not self._shortened:
            return ""
        path, written = next(iter(self._shortened.items()))
        num_paths = counted(len(self._shortened), "path")
        return f"{source}: {num_paths} found without the first directories, such as {written} as {path}"

    def describe(self, line: str) -> str:
        """Return the paths that were tried for a line without a file."""
        written = _readings(line)[0]
        tried = [written] if written.is_absolute() else [base / written for base in self._bases]
        shown = ", ".join(map(str, tried[:MAX_SHOWN]))
        return f"{shown}, and without its first directories" if len(written.parts) > 1 else shown

    def _candidates(self, parent: Path) -> list[tuple[Path, bool]]:
        """Return (directory, whether first parts were dropped) of all that `parent` may mean, nearest first.

        They have no `..` below the root: in `images/../photos` no image is in a directory that is called images.
        """
        if parent not in self._directories:
            whole = [parent] if parent.is_absolute() else [base / parent for base in self._bases]
            parts = parent.parts[parent.is_absolute() :]
            tails = [Path(*parts[start:]) for start in range(not parent.is_absolute(), len(parts))]
            shortened = [base / tail for tail in tails for base in self._known]
            if parts:
                shortened.append(self._directory)
            found = dict.fromkeys([*((path, False) for path in whole), *((path, True) for path in shortened)])
            if self._archive is not None:  # whose lists name nothing outside of it
                found = {one: None for one in found if archive_on(one[0]) == self._archive}
            self._directories[parent] = [(self._without_dots(path), short) for path, short in found if is_dir(path)]
        return self._directories[parent]

    def _without_dots(self, directory: Path) -> Path:
        """Return the path of a directory without `..`, but for those of the root, by which its images are known."""
        plain = plain_directory(directory)
        is_below = plain.is_relative_to(self._plain_root)
        return self._root / plain.relative_to(self._plain_root) if is_below else plain


def _readings(line: str) -> list[Path]:
    """Return the possible paths of `line`: as it is, as a Windows path, and with accents composed or decomposed."""
    forms = [os.path.expanduser(line)]  # noqa: PTH111, an unknown user is not an error
    if "\\" in line or line[1:2] == ":":
        windows = PureWindowsPath(line)
        forms.append(windows.as_posix().removeprefix(windows.drive))
    if not line.isascii():  # one system composes letters and accents, another does not
        forms += [unicodedata.normalize(form, text) for form in ("NFC", "NFD") for text in forms]
    return [Path(form) for form in dict.fromkeys(forms)]
