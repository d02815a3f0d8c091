"""Pascal VOC's files: an XML of objects for each image, and lists of images. Needs neither NumPy nor OpenCV.

Positions are those of VOC: whole pixels from 1, both ends included, so that an object from the first to the tenth
column has xmin 1 and xmax 10. XML with a document type is refused: only that can define entities.
"""

from __future__ import annotations

import functools
import math
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.archives.archive import archive_on
from hpc_yolo.data.files import is_dir, names_in, read_bytes
from hpc_yolo.data.image_files import files_below
from hpc_yolo.data.image_lists import UTF_16_MARKS, list_lines
from hpc_yolo.data.image_suffixes import DATASET_SUFFIXES

LISTS, ANNOTATIONS, IMAGES = "ImageSets", "Annotations", "JPEGImages"
XML = ".xml"
SIDES = ("xmin", "ymin", "xmax", "ymax")
TRUE = ("1", "true")  # as an object is marked as difficult, in lower case
FLAGS = ("-1", "0", "1")  # behind the names in the list of a class: it is absent, difficult or present
ROOT = "annotation"
NUM_THREADS = 8


@dataclass(frozen=True)
class VocObject:
    """An object: left, top, right, bottom in pixels from 0, the right and lower ones excluded."""

    name: str
    sides: tuple[float, float, float, float]
    is_difficult: bool


@dataclass(frozen=True)
class VocAnnotation:
    """The content of a file: sizes in pixels, 0 where it has none; objects, or sentences about invalid ones."""

    file_name: str
    width: float
    height: float
    objects: tuple[VocObject | str, ...]


class _DocumentTypeError(ValueError):
    """XML has a document type."""


class _Refusing(ElementTree.TreeBuilder):
    def doctype(self, name: str, _public: str | None, _system: str | None) -> NoReturn:
        raise _DocumentTypeError(f"has a document type ({name}), which is refused: it can define entities")


def read_voc(path: Path) -> VocAnnotation:
    """Return the content of an XML file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not VOC's XML; the message begins with its path.
    """
    try:
        root = ElementTree.fromstring(read_bytes(path), ElementTree.XMLParser(target=_Refusing()))
    except (ElementTree.ParseError, _DocumentTypeError) as error:
        what = f"is not XML: {error}" if isinstance(error, ElementTree.ParseError) else str(error)
        raise ValueError(f"{path}: {what}") from error
    except (ValueError, LookupError) as error:
        raise ValueError(f"{path}: is in an encoding that is not read ({error}); save it as UTF-8") from error
    if root.tag != ROOT:
        raise ValueError(f"{path}: is not of Pascal VOC: it holds <{root.tag}>, not <{ROOT}>")
    found = enumerate(root.findall("object"), 1)
    return VocAnnotation(
        file_name=(root.findtext("filename") or "").strip(),
        width=_number(root.findtext("size/width")) or 0,
        height=_number(root.findtext("size/height")) or 0,
        objects=tuple(_object(f"{path}: object {number}", element) for number, element in found),
    )


def _object(where: str, element: ElementTree.Element) -> VocObject | str:
    name = (element.findtext("name") or "").strip()
    if not name:
        return f"{where}: has no name"
    numbers = [_number(element.findtext(f"bndbox/{side}")) for side in SIDES]
    left, top, right, bottom = numbers
    if left is None or top is None or right is None or bottom is None:
        missing = next(side for side, number in zip(SIDES, numbers, strict=True) if number is None)
        return f"{where} ({name}): has no bndbox with a number {missing}"
    is_difficult = (element.findtext("difficult") or "").strip().lower() in TRUE
    return VocObject(name, (left - 1, top - 1, right, bottom), is_difficult)


def _number(text: str | None) -> float | None:
    """Return the finite number `text`; None where it is none."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def listed_files(source: Path, root: Path, annotations: Path | None, images: Path | None = None) -> list[Path]:
    """Return the XML files of the list or directory `source`, also those of a list that do not exist.

    A file x.XML in a directory stands for x.xml, so that its image is reported where that does not exist.

    Args:
        source: a list of names, such as ImageSets/Main/train.txt, or a directory of XML files.
        root: of the dataset.
        annotations: directory of the XML files of a list; None for the usual ones.
        images: directory of the images of a list; None for the usual ones.

    Raises:
        DataError: the list or directory cannot be read, or the directory has no XML file.
    """
    if is_dir(source):
        below = (Path(name) for name in files_below(source) if name.lower().endswith(XML))
        found = sorted({path.with_suffix(XML) for path in below if not path.name.startswith(".")})
        if not found:
            raise DataError(f"{source}: has no {XML} files", hint="train: ImageSets/Main/train.txt, or their directory")
        return found
    directory = annotations or beside_list(source, root, ANNOTATIONS) or root / ANNOTATIONS
    known = _KnownNames(directory, image_directories(source, root, images, directory))
    return [directory / f"{name}{XML}" for name in _listed_names(source, known)]


def image_directories(source: Path, root: Path, images: Path | None, annotations: Path | None) -> list[Path]:
    """Return the directories in which the images of a list or directory are looked for: `images`, or the usual ones."""
    found = [images] if images is not None else [beside_list(source, root, IMAGES, "images"), annotations]
    return [directory for directory in found if directory is not None]


def beside_list(source: Path, root: Path, *names: str) -> Path | None:
    """Return the first existing directory of `names` beside ImageSets, or beside a list, or in `root`."""
    above = next((parent.parent for parent in source.parents if parent.name == LISTS), source.parent)
    tried = (base / name for base in dict.fromkeys((above, source.parent, root)) for name in names)
    return next((path for path in tried if is_dir(path)), None)


class _KnownNames:
    """The names, without suffixes, of the XML files and images of a dataset. Each directory is listed once."""

    def __init__(self, annotations: Path, images: Sequence[Path]) -> None:
        self._bases = dict.fromkeys((annotations, *images))
        self._stems: dict[str, set[str]] = {}  # by the directory below the bases

    def __contains__(self, name: str) -> bool:
        inside, _, stem = name.rpartition("/")
        if inside not in self._stems:
            self._stems[inside] = set().union(*map(_stems_in, (base / inside for base in self._bases)))
        # A whole path in a list, and one with `..`, is not below the directories.
        return stem in self._stems[inside] and not name.startswith("/") and ".." not in inside.split("/")


def _stems_in(directory: Path) -> set[str]:
    """Return the names, without suffixes, of the XML files and images in a directory; none where there is none."""
    try:
        files = map(os.path.splitext, names_in(directory))
    except OSError:
        return set()
    return {stem for stem, suffix in files if _is_file_suffix(suffix)}


def _listed_names(source: Path, known: _KnownNames) -> Iterator[str]:
    """Yield the name, without suffix, of each line of a list: of all its readings the first that is known.

    A line is its name as it is written, `photo 1` or `#7` too, before a flag, quotes or a suffix are left out.
    """
    cleaned = dict(list_lines(source))
    for number, written in enumerate(_lines_as_written(source), 1):
        readings = _readings(cleaned[number]) if number in cleaned else [""]
        usual = readings[-1]
        name = next((one for one in (written, *readings) if one == usual or one in known), usual)
        if name:
            yield name


def _lines_as_written(source: Path) -> list[str]:
    """Return the lines of a list, of which `list_lines` has found that it is text."""
    content = read_bytes(source)
    encoding = "utf-16" if content.startswith(UTF_16_MARKS) else "utf-8-sig"
    return [line.removesuffix("\r") for line in content.decode(encoding, "surrogateescape").split("\n")]


def _readings(line: str) -> list[str]:
    """Return the names that a line may mean: the whole of it, without a flag, and then without suffix or directory."""
    head, _, flag = line.rpartition(" ")
    unflagged = (head if flag.strip() in FLAGS and head.strip() else line).strip()
    name, suffix = os.path.splitext(unflagged)  # noqa: PTH122, of many thousands
    return [line, unflagged, *([name, name.rpartition("/")[2]] if _is_file_suffix(suffix) else [])]


def _is_file_suffix(suffix: str) -> bool:
    return suffix.lower() in DATASET_SUFFIXES or suffix.lower() == XML


def voc_names_in(files: Sequence[Path]) -> tuple[str, ...]:
    """Return the names of all objects in XML files, sorted.

    Raises:
        DataError: a file is invalid, or there are no objects.
    """
    on_disk = {archive_on(path) or path for path in files}
    newest_ns = max((path.stat().st_mtime_ns for path in on_disk if path.exists()), default=0)
    return _names_in(tuple(files), newest_ns)


@functools.lru_cache(maxsize=16)
def _names_in(files: tuple[Path, ...], _newest_ns: int) -> tuple[str, ...]:
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        names = sorted(set().union(*pool.map(_names_of, files)))
    if not names:
        listed = os.path.commonpath(files) if files else "the list"
        raise DataError(f"{listed}: its files have no objects, so no names of classes", hint="write names: into it")
    return tuple(names)


def _names_of(file: Path) -> set[str]:
    try:
        found = read_voc(file).objects
    except (OSError, ValueError):  # a problem of its image, which a scan reports
        return set()
    return {one.name for one in found if isinstance(one, VocObject)}
