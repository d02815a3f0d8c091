"""Small datasets in the YOLO layout, and what tests of the data path do with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest
import torch

from hpc_yolo.data.batch import TrainingBatch
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.flat import FlatLabels, FlatPaths
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.polygons import Outlines
from hpc_yolo.data.samples import TrainingSamples
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.source import ImageFiles
from hpc_yolo.data.tiles import Tile
from hpc_yolo.spec.recipe import Hyperparameters

HEIGHT, WIDTH = 40, 60
NOISE = np.random.default_rng(0).integers(0, 256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
GOOD = "0 0.5 0.5 0.5 0.5\n"
TRIANGLE = np.array([[0.2, 0.2], [0.8, 0.3], [0.4, 0.9]], dtype=np.float32)
# Hyperparameters that change neither colours nor boxes of an image that is no mosaic.
STILL = {"hsv_h": 0, "hsv_s": 0, "hsv_v": 0, "translate": 0, "scale": 0, "fliplr": 0, "flipud": 0}


def encoded(suffix: str, pixels: np.ndarray = NOISE) -> bytes:
    """Return `pixels` as a file of that suffix."""
    return cv2.imencode(suffix, pixels)[1].tobytes()


JPEG = encoded(".jpg")


def different(number: int, suffix: str = ".png") -> bytes:
    """Return an image that does not look like that of any other number."""
    coarse = np.random.default_rng(number).integers(0, 256, size=(5, 7, 3), dtype=np.uint8)
    return encoded(suffix, np.asarray(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)))


def make_set(root: Path) -> Path:
    """Make an empty dataset of the classes cat and dog in `root`: images/train, labels/train and d.yaml."""
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True)
    (root / "d.yaml").write_text("train: images/train\nval: images/train\nnames: [cat, dog]\n")
    return root


def add(root: Path, name: str, content: bytes = JPEG, label: str | None = GOOD) -> None:
    """Add an image to a dataset, with its label file unless `label` is None."""
    (root / "images" / "train" / name).write_bytes(content)
    if label is not None:
        (root / "labels" / "train" / f"{name.rpartition('.')[0]}.txt").write_text(label)


def scan(root: Path, split: str = "train", **options: Any) -> ImageIndex:
    """Scan a split of the dataset in `root`."""
    return scan_split(load_dataset(root / "d.yaml"), split, **options)


def cache_of(root: Path) -> Path:
    """Return the only cache of the dataset in `root`."""
    (cache,) = (root / "labels").glob(".*.npz")
    return cache


def no_scan(*_: Any) -> NoReturn:
    """Replace a scan where a cache must serve."""
    raise AssertionError("scanned in spite of the cache")


def plain(index: ImageIndex) -> tuple[Any, ...]:
    """Return what an index has, as values that can be compared."""
    return tuple(index.paths), index.shapes_hw.tolist(), [labels.tolist() for labels in index.labels], index.messages


def outlines_of(*polygons: Any) -> Outlines:
    """Return the outlines of objects; an empty polygon is an object that has only a box."""
    return Outlines.of([np.array(polygon, dtype=np.float32).reshape(-1, 2) for polygon in polygons])


def make_samples(index: ImageIndex, imgsz: int, **hyp: Any) -> TrainingSamples:
    """Return training samples of the files of `index`, seed 0."""
    source = ImageFiles(index, imgsz, augment=True)
    return TrainingSamples(index, source, imgsz=imgsz, hyp=Hyperparameters(**hyp), seed=0)


def members_of(samples: TrainingSamples, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which `samples` adds the images of each sample: four of a mosaic, shown or not."""
    members: list[int] = []
    real = samples._tile

    def watched(image: int, *places: Any) -> Tile:
        members.append(image)
        return real(image, *places)

    monkeypatch.setattr(samples, "_tile", watched)
    return members


def index_of(paths: Sequence[str], shapes_hw: Sequence[tuple[int, int]], labels: Sequence[Any]) -> ImageIndex:
    """Return an index of images without a scan; `labels` are the lines of each."""
    return ImageIndex(
        paths=FlatPaths.of(paths),
        shapes_hw=np.array(shapes_hw, dtype=np.int32).reshape(-1, 2),
        labels=FlatLabels.of(np.array(lines, dtype=np.float32).reshape(-1, 5) for lines in labels),
        num_backgrounds=sum(len(lines) == 0 for lines in labels),
        num_corrupt=0,
        messages=(),
    )


def object_on_black(width: int, height: int, box_xyxy: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return (pixels with a white box, its label (1, 5) of class 3, cxcywh in [0, 1])."""
    left, top, right, bottom = box_xyxy
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[top:bottom, left:right] = 255
    label = 3, (left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height
    return pixels, np.array([label], dtype=np.float32)


def bounds_of_white(pixels: np.ndarray) -> np.ndarray:
    """Return xyxy of what is brighter than the grey of borders and of half-covered pixels."""
    ys, xs = np.nonzero(pixels[..., 0] > 180)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


def noise_index(directory: Path, shapes: Sequence[tuple[int, int]]) -> ImageIndex:
    """Write noise images of `shapes`, each with an object over all of it but a tenth on every side."""
    random = np.random.default_rng(0)
    paths = [str(directory / f"{number}.png") for number in range(len(shapes))]
    for path, (height, width) in zip(paths, shapes, strict=True):
        cv2.imwrite(path, random.integers(0, 256, size=(height, width, 3), dtype=np.uint8))
    return index_of(paths, shapes, [[[0, 0.5, 0.5, 0.8, 0.8]]] * len(shapes))


def joined(shards: Sequence[Sequence[TrainingBatch]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the (images, targets) of the global batches that the ranks' shards make up."""
    batches = []
    for parts in zip(*shards, strict=True):
        targets = []
        for rank, part in enumerate(parts):
            moved = part.targets.clone()
            moved[:, 0] += rank * len(part.images)
            targets.append(moved)
        batches.append((torch.cat([part.images for part in parts]), torch.cat(targets)))
    return batches
