"""Drawn datasets, for a first training, the tests and benchmarks without a download.

The same arguments give the same bytes. What the images of a kind show is in `drawn_shapes` and `drawn_glyphs`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml

from hpc_yolo.core.errors import DataError
from hpc_yolo.data import drawn_glyphs, drawn_shapes
from hpc_yolo.data.images import Pixels
from hpc_yolo.data.new_directory import publish, written_aside

JPEG_QUALITY = 90
RECIPE_FILE = "recipe.json"
RECIPE_VERSION = 1
SHAPES, GLYPHS = "shapes", "glyphs"

Box = tuple[int, float, float, float, float]  # class, left, top, right, bottom in pixels


@dataclass(frozen=True)
class Kind:
    """A kind of drawn images.

    Attributes:
        smallest_side: least width and height of an image in pixels.
        draw_image: returns (pixels (height, width, BGR), boxes) from a generator and (width, height).
    """

    classes: tuple[str, ...]
    smallest_side: int
    draw_image: Callable[[np.random.Generator, tuple[int, int]], tuple[Pixels, list[Box]]]


KINDS = {
    SHAPES: Kind(drawn_shapes.CLASSES, drawn_shapes.SIDES_PIXELS[0], drawn_shapes.draw_image),
    GLYPHS: Kind(drawn_glyphs.CLASSES, drawn_glyphs.SIDES_PIXELS[0], drawn_glyphs.draw_image),
}


def write_drawn_dataset(
    kind: str,
    directory: Path,
    *,
    num_train: int = 240,
    num_val: int = 80,
    image_size: tuple[int, int] = (320, 240),
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Path:
    """Draw a set into `directory` and return its dataset.yaml; a directory with the same set is left unchanged.

    Args:
        kind: one of `KINDS`.
        image_size: width and height in pixels.
        on_progress: called with (images drawn, all images).

    Raises:
        DataError: the directory has other content, or cannot be written.
    """
    _require_drawable(kind, directory, num_train, num_val, image_size)
    recipe = {
        "kind": kind,
        "version": RECIPE_VERSION,
        "train": num_train,
        "val": num_val,
        "size": list(image_size),
        "seed": seed,
    }
    if directory.exists() and any(directory.iterdir()):
        _require_same_set(directory, recipe)
        return directory / "dataset.yaml"
    with written_aside(directory) as aside:
        _draw_all(aside, KINDS[kind], {"train": num_train, "val": num_val}, image_size, seed, on_progress)
        (aside / RECIPE_FILE).write_text(json.dumps(recipe))
        publish(aside, directory)
    return directory / "dataset.yaml"


write_shapes_dataset = functools.partial(write_drawn_dataset, SHAPES)


def _require_drawable(kind: str, directory: Path, num_train: int, num_val: int, image_size: tuple[int, int]) -> None:
    side = KINDS[kind].smallest_side
    if min(num_train, num_val) < 1 or min(image_size) < side:
        raise DataError(
            f"{num_train} training and {num_val} validation images of {image_size[0]} x {image_size[1]} pixels: at "
            f"least 1 and 1 of {side} x {side} are needed",
            hint=f"leave the options out: hpc-yolo data synth --kind {kind} datasets/{kind}",
        )
    if directory.exists() and not directory.is_dir():
        raise DataError(f"{directory}: is a file", hint="give another directory")


def _draw_all(
    root: Path,
    kind: Kind,
    counts: dict[str, int],
    image_size: tuple[int, int],
    seed: int,
    on_progress: Callable[[int, int], None],
) -> None:
    done = 0
    for split_number, (split, count) in enumerate(counts.items()):
        for part in ("images", "labels"):
            (root / part / split).mkdir(parents=True)
        for index in range(count):
            pixels, boxes = kind.draw_image(np.random.default_rng([seed, split_number, index]), image_size)
            _write_image(root, split, index, pixels, boxes)
            done += 1
            on_progress(done, sum(counts.values()))
    content = {"train": "images/train", "val": "images/val", "names": dict(enumerate(kind.classes))}
    (root / "dataset.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def _write_image(root: Path, split: str, index: int, pixels: Pixels, boxes: list[Box]) -> None:
    height, width = pixels.shape[:2]
    image = root / "images" / split / f"{index:05d}.jpg"
    if not cv2.imwrite(str(image), pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
        raise DataError(f"{image}: cannot be written", hint="is the disk full?")
    lines = [
        f"{class_index} {(left + right) / 2 / width:.6f} {(top + bottom) / 2 / height:.6f} "
        f"{(right - left) / width:.6f} {(bottom - top) / height:.6f}\n"
        for class_index, left, top, right, bottom in boxes
    ]
    (root / "labels" / split / f"{index:05d}.txt").write_text("".join(lines))


def _require_same_set(directory: Path, recipe: dict[str, object]) -> None:
    try:
        drawn = json.loads((directory / RECIPE_FILE).read_text())
    except (OSError, ValueError):
        raise DataError(f"{directory}: has content that was not drawn here", hint="give an empty directory") from None
    if drawn != recipe:
        raise DataError(
            f"{directory}: has another drawn set ({json.dumps(drawn)})", hint="remove it, or give another directory"
        )
