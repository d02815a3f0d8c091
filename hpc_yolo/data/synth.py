"""A drawn dataset of shapes, for a first training and the tests without a download.

Every class has a form and colours around a hue of its own; backgrounds are textured, shapes may overlap. The same
arguments give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import yaml

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.images import Pixels
from hpc_yolo.data.new_directory import publish, written_aside

CLASSES = ("circle", "square", "triangle", "star")
HUES = (0, 60, 110, 150)  # of OpenCV's 180, one for each class; a shape deviates by up to HUE_SPREAD
HUE_SPREAD = 12
SIDES_PIXELS = (28, 96)
MAX_SHAPES = 5
MAX_OVERLAP = 0.35
JPEG_QUALITY = 90
RECIPE_FILE = "recipe.json"
RECIPE_VERSION = 1


def write_shapes_dataset(
    directory: Path,
    *,
    num_train: int = 240,
    num_val: int = 80,
    image_size: tuple[int, int] = (320, 240),
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Path:
    """Draw the set into `directory` and return its dataset.yaml; a directory with the same set is left unchanged.

    Args:
        image_size: width and height in pixels.
        on_progress: called with (images drawn, all images).

    Raises:
        DataError: the directory has other content, or cannot be written.
    """
    _require_drawable(directory, num_train, num_val, image_size)
    recipe = {"version": RECIPE_VERSION, "train": num_train, "val": num_val, "size": list(image_size), "seed": seed}
    if directory.exists() and any(directory.iterdir()):
        _require_same_set(directory, recipe)
        return directory / "dataset.yaml"
    with written_aside(directory) as aside:
        _draw_all(aside, {"train": num_train, "val": num_val}, image_size, seed, on_progress)
        (aside / RECIPE_FILE).write_text(json.dumps(recipe))
        publish(aside, directory)
    return directory / "dataset.yaml"


def _require_drawable(directory: Path, num_train: int, num_val: int, image_size: tuple[int, int]) -> None:
    if min(num_train, num_val) < 1 or min(image_size) < SIDES_PIXELS[0]:
        raise DataError(
            f"{num_train} training and {num_val} validation images of {image_size[0]} x {image_size[1]} pixels: at "
            f"least 1 and 1 of {SIDES_PIXELS[0]} x {SIDES_PIXELS[0]} are needed",
            hint="leave the options out: hpc-yolo data synth datasets/shapes",
        )
    if directory.exists() and not directory.is_dir():
        raise DataError(f"{directory}: is a file", hint="give another directory")


def _draw_all(
    root: Path,
    counts: dict[str, int],
    image_size: tuple[int, int],
    seed: int,
    on_progress: Callable[[int, int], None],
) -> None:
    done = 0
    for split_number, (split, count) in enumerate(counts.items()):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            _write_image(root, split, index, image_size, np.random.default_rng([seed, split_number, index]))
            done += 1
            on_progress(done, sum(counts.values()))
    content = {"train": "images/train", "val": "images/val", "names": dict(enumerate(CLASSES))}
    (root / "dataset.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def draw_image(
    random: np.random.Generator, image_size: tuple[int, int]
) -> tuple[Pixels, list[tuple[int, float, float, float, float]]]:
    """Return (pixels (height, width, BGR), boxes of class, left, top, right, bottom in pixels)."""
    width, height = image_size
    pixels = _background(random, width, height)
    boxes: list[tuple[int, float, float, float, float]] = []
    for _ in range(int(random.integers(1, MAX_SHAPES + 1))):
        class_index = int(random.integers(len(CLASSES)))
        side = int(random.integers(SIDES_PIXELS[0], min(SIDES_PIXELS[1], width, height) + 1))
        left, top = int(random.integers(width - side + 1)), int(random.integers(height - side + 1))
        box = (class_index, float(left), float(top), float(left + side), float(top + side))
        if all(_overlap_fraction(box, other) <= MAX_OVERLAP for other in boxes):
            _draw_shape(pixels, class_index, left, top, side, _colour(random, class_index))
            boxes.append(box)
    grain = random.integers(-8, 9, size=pixels.shape)
    return (pixels.astype(np.int64) + grain).clip(0, 255).astype(np.uint8), boxes


def _write_image(root: Path, split: str, index: int, image_size: tuple[int, int], random: np.random.Generator) -> None:
    pixels, boxes = draw_image(random, image_size)
    width, height = image_size
    image = root / "images" / split / f"{index:05d}.jpg"
    if not cv2.imwrite(str(image), pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
        raise DataError(f"{image}: cannot be written", hint="is the disk full?")
    lines = [
        f"{class_index} {(left + right) / 2 / width:.6f} {(top + bottom) / 2 / height:.6f} "
        f"{(right - left) / width:.6f} {(bottom - top) / height:.6f}\n"
        for class_index, left, top, right, bottom in boxes
    ]
    (root / "labels" / split / f"{index:05d}.txt").write_text("".join(lines))


def _background(random: np.random.Generator, width: int, height: int) -> Pixels:
    """Return soft patches of grey and weak colour."""
    coarse = random.integers(70, 150, size=(6, 8, 1)) + random.integers(-15, 16, size=(6, 8, 3))
    return np.asarray(cv2.resize(coarse.astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC))


def _colour(random: np.random.Generator, class_index: int) -> tuple[int, int, int]:
    hue = (HUES[class_index] + int(random.integers(-HUE_SPREAD, HUE_SPREAD + 1))) % 180
    pixel = np.array([[[hue, random.integers(150, 256), random.integers(150, 256)]]], dtype=np.uint8)
    blue, green, red = cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0]
    return int(blue), int(green), int(red)


def _draw_shape(pixels: Pixels, class_index: int, left: int, top: int, side: int, colour: tuple[int, int, int]) -> None:
    """Draw a shape that touches all four sides of its box."""
    if CLASSES[class_index] == "circle":
        axes = (side // 2, side // 2)
        cv2.ellipse(pixels, (left + side // 2, top + side // 2), axes, 0, 0, 360, colour, -1, cv2.LINE_AA)
        return
    outlines = {
        "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
        "triangle": [(0.5, 0), (1, 1), (0, 1)],
        "star": [(0.5, 0), (0.62, 0.38), (1, 0.5), (0.62, 0.62), (0.5, 1), (0.38, 0.62), (0, 0.5), (0.38, 0.38)],
    }
    points = np.array(outlines[CLASSES[class_index]]) * (side - 1) + (left, top)
    cv2.fillPoly(pixels, [points.round().astype(np.int32)], colour, cv2.LINE_AA)


def _overlap_fraction(
    first: tuple[int, float, float, float, float], second: tuple[int, float, float, float, float]
) -> float:
    """Return the overlap as a fraction of the smaller box."""
    width = min(first[3], second[3]) - max(first[1], second[1])
    height = min(first[4], second[4]) - max(first[2], second[2])
    smaller = min((box[3] - box[1]) * (box[4] - box[2]) for box in (first, second))
    return max(width, 0) * max(height, 0) / smaller


def _require_same_set(directory: Path, recipe: dict[str, object]) -> None:
    try:
        drawn = json.loads((directory / RECIPE_FILE).read_text())
    except (OSError, ValueError):
        raise DataError(f"{directory}: has content that was not drawn here", hint="give an empty directory") from None
    if drawn != recipe:
        raise DataError(
            f"{directory}: has another drawn set ({json.dumps(drawn)})", hint="remove it, or give another directory"
        )
