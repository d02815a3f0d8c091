"""COCO's annotation files: their form, and the classes of their categories. Needs neither NumPy nor OpenCV.

A file is decoded at once into typed values, and only the part that is needed: outlines stay bytes until their image is
read. 450 MB (118,000 images, 860,000 objects) take 2 to 4 s, the images or the categories alone less than one.
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import yaml

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.package_data import resource_directory
from hpc_yolo.core.text import printable
from hpc_yolo.data.archives.archive import archive_on
from hpc_yolo.data.files import file_state, is_dir, names_in, read_bytes

# COCO has numbers for 91 kinds of things, and objects of 80 of them.
UNUSED_IDS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91})
COCO_IDS = tuple(number for number in range(1, 92) if number not in UNUSED_IDS)

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SHOWN_BYTES = 30
FORM_HINT = "images, annotations and categories are needed, as in instances_val2017.json"
ImageId = int | str


class CocoImage(msgspec.Struct, gc=False):
    """An image. `width` and `height` in pixels; some exports have none."""

    id: ImageId
    file_name: str = ""
    width: float | None = None
    height: float | None = None


class CocoCategory(msgspec.Struct, gc=False):
    """A class."""

    id: int
    name: str
    supercategory: str | None = None


class CocoObject(msgspec.Struct, gc=False):
    """An annotation. `bbox`: left, top, width, height in pixels; `segmentation`: JSON of polygons, or of a mask."""

    image_id: ImageId
    category_id: int
    bbox: list[float] | None = None
    iscrowd: int | bool | str | None = 0
    segmentation: msgspec.Raw = msgspec.Raw()

    @property
    def is_crowd(self) -> bool:
        """True for a region of many objects without boxes of their own."""
        return self.iscrowd in (1, True, "1")


class CocoImages(msgspec.Struct):
    """A file without its objects."""

    images: list[CocoImage]
    categories: list[CocoCategory]


class CocoFile(CocoImages):
    """A whole file."""

    annotations: list[CocoObject] = []


class _Used(msgspec.Struct, gc=False):
    category_id: int


class _CategoriesInUse(msgspec.Struct):
    annotations: list[_Used] = []


Content = TypeVar("Content", bound=msgspec.Struct)


def annotation_file(path: Path) -> Path:
    """Return the COCO file `path`, or the only JSON file in that directory.

    Raises:
        DataError: the directory has none, or several.
    """
    if not is_dir(path):
        return path
    found = [path / name for name in names_in(path) if name.endswith(".json")]
    if len(found) != 1:
        seen = f"{len(found)} JSON files ({', '.join(file.name for file in found[:3])})" if found else "no JSON file"
        raise DataError(f"{path}: is a directory with {seen}", hint="name the file of annotations: train: FILE.json")
    return found[0]


def read_coco(path: Path, kind: type[Content]) -> Content:
    """Return the part `kind` of the COCO file `path`.

    Raises:
        DataError: it cannot be read, or is not in COCO's format; the message has what was seen, and where.
    """
    try:
        if archive_on(path) is not None:
            return _decoded(path, read_bytes(path).removeprefix(BYTE_ORDER_MARK), kind)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            if kind is CocoFile or mapped[: len(BYTE_ORDER_MARK)] == BYTE_ORDER_MARK:
                return _decoded(path, mapped[:].removeprefix(BYTE_ORDER_MARK), kind)
            return _decoded(path, mapped, kind)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # of mmap
        raise DataError(f"{path}: is not in COCO's format: an empty file", hint=FORM_HINT) from error


@functools.cache
def coco_class_names() -> tuple[str, ...]:
    """Return the names of COCO's 80 classes, by class."""
    content = yaml.safe_load((resource_directory("configs") / "data" / "coco.yaml").read_text(encoding="utf-8"))
    return tuple(content["names"].values())


def coco_names_in(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return the names of the classes of COCO files: their categories in the order of their ids.

    A category without objects that is only the parent of others is no class. Of the list of all 91 kinds of things, the
    80 of which COCO has objects are.

    Raises:
        DataError: a file cannot be read, or has no categories.
    """
    names: dict[str, None] = {}
    for path in paths:
        names |= dict.fromkeys(_names_in(path, file_state(path)))
    return tuple(names)


def require_own_category_ids(path: Path, categories: Sequence[CocoCategory]) -> None:
    """Refuse categories of different names with one id.

    Raises:
        DataError: naming both.
    """
    names: dict[int, str] = {}
    for one in categories:
        if names.setdefault(one.id, one.name) != one.name:
            raise DataError(
                f"{path}: categories: id {one.id} is that of {printable(names[one.id])} and of {printable(one.name)}",
                hint="give each category an id of its own, and its objects that category_id",
            )


@functools.lru_cache(maxsize=16)
def _names_in(path: Path, _state: bytes) -> tuple[str, ...]:
    categories = sorted(read_coco(path, CocoImages).categories, key=lambda category: category.id)
    require_own_category_ids(path, categories)
    if not categories:
        raise DataError(f"{path}: its list of categories is empty", hint="write names: into the dataset YAML")
    if [category.id for category in categories] == list(range(1, 92)):
        used = tuple(category.name for category in categories if category.id not in UNUSED_IDS)
        if used == coco_class_names():
            return used
    parents = {category.supercategory for category in categories}
    suspects = {one.id for one in categories if one.name in parents and one.supercategory in (None, "", "none")}
    if suspects:
        suspects -= {one.category_id for one in read_coco(path, _CategoriesInUse).annotations}
    return tuple(dict.fromkeys(category.name for category in categories if category.id not in suspects))


def _decoded(path: Path, content: bytes | mmap.mmap, kind: type[Content]) -> Content:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: is not in COCO's format: {_sentence(str(error))}", hint=FORM_HINT) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        seen = bytes(content[:SHOWN_BYTES])
        raise DataError(f"{path}: is not JSON: {error}; it begins with {seen!r}", hint=FORM_HINT) from error


def _sentence(text: str) -> str:
    """Return msgspec's `text` with the place first: Expected `int`, got `str` - at `$.images[0].id`."""
    what, _, where = text.partition(" - at ")
    place = where.strip("`").removeprefix("$").removeprefix(".")
    what = what.replace("`", "")
    return f"{place}: {what[:1].lower()}{what[1:]}" if place else f"{what[:1].lower()}{what[1:]}"
