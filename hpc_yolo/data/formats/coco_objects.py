"""The objects of a COCO file, as classes with boxes or outlines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.coco_json import (
    CocoCategory,
    CocoFile,
    CocoObject,
    ImageId,
    read_coco,
    require_own_category_ids,
)
from hpc_yolo.data.formats.coco_polygons import joined_polygons
from hpc_yolo.data.formats.objects import DECIMALS, Box, LabelledObject, cut_box
from hpc_yolo.data.formats.remarks import CUT, WITHOUT_AREA, Remarks
from hpc_yolo.data.formats.split import WrittenObject
from hpc_yolo.data.formats.yolo_labels import as_polygon

FIT = 0.5  # intersection over union from which an outline is that of its box
MIN_NUMBERS = 6  # of a polygon
MAX_NAMED = 3
Sides = tuple[float, float, float, float]  # left, top, right, bottom in pixels

# Remarks on objects, and what is done with them.
UNKNOWN_IMAGE = "left out, of an image that the file does not have"
UNNAMED = "left out, of a category that names: does not list"
MISFIT = "used as a box: the outline does not fit it"
MASK = "used as a box: masks (RLE) are not read"
CROWD = "left out, a crowd (iscrowd): detections in it are ignored in evaluations"
_polygons = msgspec.json.Decoder(list[list[float]])


class CocoObjects:
    """The objects of the file `path`, by image.

    Args:
        path: the JSON.
        names: of the classes.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        """Read the file.

        Raises:
            DataError: it is invalid, has none of the classes, or an `image_id` is of another type than the images' ids.
        """
        content = read_coco(path, CocoFile)
        self._path = path
        self._classes = _classes(path, content.categories, names)
        self._by_image: dict[ImageId, list[tuple[int, CocoObject]]] = {image.id: [] for image in content.images}
        self._remarks: Remarks[int] = Remarks()
        kinds = {type(image.id) for image in content.images}
        for position, one in enumerate(content.annotations):
            if kinds and type(one.image_id) not in kinds:
                raise _other_kind(path, position, one.image_id, content.images[0].id)
            if one.image_id in self._by_image:
                self._by_image[one.image_id].append((position, one))
            else:
                self._remarks.add(UNKNOWN_IMAGE, position)

    def of(self, image_id: ImageId, width: float, height: float) -> list[LabelledObject]:
        """Return the objects and crowds of an image of `width` x `height` pixels.

        Raises:
            ValueError: one is invalid; the message has its position in the file.
        """
        found = (self._object(position, one, width, height) for position, one in self._by_image[image_id])
        return [one for one in found if one is not None]

    def each(self, image_id: ImageId, width: float, height: float) -> Iterator[WrittenObject]:
        """Yield the objects of an image, invalid ones too, with their positions in the file."""
        for position, one in self._by_image[image_id]:
            try:
                labelled = self._object(position, one, width, height)
            except ValueError as error:
                yield WrittenObject(position, problem=str(error))
            else:
                if labelled is not None and not labelled.is_crowd:
                    yield WrittenObject(position, (labelled.class_index, *labelled.box))

    def remarks(self) -> list[str]:
        """Return what was noticed in the objects that were read, a sentence for each kind."""
        found = self._remarks.sentences(lambda position: f"annotations[{position}]")
        return [f"{self._path}: {sentence}" for sentence in found]

    def _object(self, position: int, one: CocoObject, width: float, height: float) -> LabelledObject | None:
        """Return an object; None for one that is left out.

        Raises:
            ValueError: it is invalid; the message has its position in the file.
        """
        where = f"{self._path}: annotations[{position}]"
        if one.category_id not in self._classes:
            known = ", ".join(map(str, sorted(self._classes)[:MAX_NAMED]))
            raise ValueError(f"{where}: category_id {one.category_id}; the categories are {known}, …")
        class_index = self._classes[one.category_id]
        if class_index is None:
            self._remarks.add(UNNAMED, position)
            return None
        numbers = self._numbers(where, position, one, width, height)
        if numbers is None:
            self._remarks.add(WITHOUT_AREA, position)
            return None
        if one.is_crowd:
            self._remarks.add(CROWD, position)
        return LabelledObject(class_index, numbers, one.is_crowd)

    def _numbers(
        self, where: str, position: int, one: CocoObject, width: float, height: float
    ) -> Box | tuple[float, ...] | None:
        """Return the polygon or the box of an object, in fractions of its image; None where it has no area."""
        polygons = self._polygons_of(where, position, one)
        sides = _sides(where, one, polygons)
        if polygons and not one.is_crowd:
            if _fits(polygons, sides):
                points = np.concatenate([joined_polygons(polygons) / (width, height)]).clip(0, 1)
                numbers = as_polygon((np.rint(points * 10**DECIMALS) / 10**DECIMALS).ravel().tolist())
                if numbers and min(LabelledObject(0, numbers).box[2:]) > 0:
                    return numbers
            else:
                self._remarks.add(MISFIT, position)
        left, top, right, bottom = sides
        box, is_cut = cut_box(left / width, top / height, right / width, bottom / height)
        if is_cut and box is not None:
            self._remarks.add(CUT, position)
        return box

    def _polygons_of(self, where: str, position: int, one: CocoObject) -> list[np.ndarray]:
        """Return the polygons (k, 2) of an object, in pixels; [] where it has none, or a mask."""
        written = bytes(one.segmentation)
        if written[:1] == b"{":
            if not one.is_crowd:
                self._remarks.add(MASK, position)
            return []
        if written in (b"", b"null", b"[]"):
            return []
        try:
            decoded = _polygons.decode(written)
        except msgspec.DecodeError:
            raise ValueError(f"{where}: segmentation {written[:40].decode()} … is not a list of polygons") from None
        polygons = []
        for numbers in decoded:
            if len(numbers) % 2:
                raise ValueError(
                    f"{where}: segmentation: a polygon of {len(numbers)} numbers, which are x and y in turn"
                )
            if len(numbers) >= MIN_NUMBERS:
                polygons.append(np.array(numbers).reshape(-1, 2))
        return polygons


def _classes(path: Path, categories: Sequence[CocoCategory], names: Sequence[str]) -> dict[int, int | None]:
    """Return the class of each category, by the position of its name in `names`; None for one that is not there.

    Raises:
        DataError: none is there, or categories of different names have one id.
    """
    require_own_category_ids(path, categories)
    index_of = {name: index for index, name in enumerate(names)}
    classes = {category.id: index_of.get(category.name) for category in categories}
    if all(index is None for index in classes.values()):
        seen, wanted = (", ".join(list(some)[:MAX_NAMED]) for some in ([one.name for one in categories], names))
        raise DataError(
            f"{path}: has no category of the dataset's names; it has {seen or 'none'}; the names are {wanted}, …",
            hint="write names: as the categories are called, or leave it out",
        )
    return classes


def _other_kind(path: Path, position: int, image_id: ImageId, other: ImageId) -> DataError:
    """Return the error of an `image_id` that is a number, where the ids of the images are text, or the other way."""
    kind, wanted = ("text", "numbers") if isinstance(image_id, str) else ("a number", "text")
    shown, seen = (msgspec.json.encode(one).decode() for one in (image_id, other))
    return DataError(
        f"{path}: annotations[{position}]: image_id {shown} is {kind}, and the ids of the images are {wanted}, "
        f"such as {seen}",
        hint="write image_id as the ids of the images are written",
    )


def _sides(where: str, one: CocoObject, polygons: Sequence[np.ndarray]) -> Sides:
    """Return the sides of `bbox`, or around the polygons."""
    if one.bbox:
        if len(one.bbox) != len(("left", "top", "width", "height")):
            raise ValueError(f"{where}: bbox {one.bbox} is not left, top, width and height")
        left, top, width, height = one.bbox
        return left, top, left + width, top + height
    if not polygons:
        raise ValueError(f"{where}: has no bbox, and no polygon")
    return _bounds(polygons)


def _bounds(polygons: Sequence[np.ndarray]) -> Sides:
    points = np.concatenate(polygons)
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return left, top, right, bottom


def _fits(polygons: Sequence[np.ndarray], sides: Sides) -> bool:
    """Return whether the box of `sides` is that of the polygons, about."""
    ours = _bounds(polygons)
    width = min(ours[2], sides[2]) - max(ours[0], sides[0])
    height = min(ours[3], sides[3]) - max(ours[1], sides[1])
    common = max(width, 0) * max(height, 0)
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (ours, sides)]
    return common >= FIT * (sum(areas) - common) > 0
