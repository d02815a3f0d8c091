"""A dataset in the YOLO layout: images/<split>, labels/<split>."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from hpc_yolo.data.convert.image import CROWDS_LOST, SourceImage, Written
from hpc_yolo.data.formats.yolo_files import label_path
from hpc_yolo.data.formats.yolo_labels import label_line


class YoloTarget:
    """Writes a text file of labels for each image; see `Target`."""

    needs_sizes = False
    has_one_root = False

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def images_directory(self, split: str) -> PurePosixPath:
        """Return the directory of the images of a split."""
        return PurePosixPath("images", split)

    def write(self, split: str, image: SourceImage) -> Written:
        """Write the labels of an image; see `Target.write`."""
        path = label_path(self._directory / self.images_directory(split) / image.name)
        objects = [one for one in image.objects if not one.is_crowd]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{label_line(one)}\n" for one in objects), encoding="utf-8")
        return Written(None, len(objects), {CROWDS_LOST: len(image.objects) - len(objects)})

    def end(self, split: str, records: list[Any]) -> None:
        """Do nothing: each image has a file of its own."""

    def yaml(self, splits: list[str], images: Mapping[str, str]) -> dict[str, Any]:  # noqa: ARG002, of the interface
        """Return the content of the dataset YAML; see `Target.yaml`."""
        return {split: str(self.images_directory(split)) for split in splits}
