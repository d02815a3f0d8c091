"""Benchmark `data`: training and validation images a second on one core, from loaders without workers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path

import cv2
import numpy as np

from hpc_yolo.bench.records import BenchResult
from hpc_yolo.bench.rounds import Rounds, Work, measure
from hpc_yolo.bench.threads import one_thread
from hpc_yolo.data.cache_files import new_memory_cache
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.decoded import DecodedImages, plan_slots
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.loader import TrainingLoader, ValidationLoader
from hpc_yolo.data.polygons import Outlines
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.spec.recipe import Hyperparameters

IMGSZ, BATCH, STRIDE = 640, 16, 32
SMALL, LARGE = (640, 480), (1920, 1080)  # widths and heights of images
NUM_POINTS = 30  # of a polygon
DECODED = 32  # images of a round of the reference
REFERENCE = f"{DECODED} images of 640 x 480 decoded and warped to 640 x 640 by OpenCV"


def bench_data(rounds: Rounds) -> list[BenchResult]:
    """Return times of mosaics of 640 px from JPEGs of 640 x 480, and of validation images from those and larger ones.

    Drawn shapes with texture; from files, which are in the page cache, and from memory.
    """
    num_small, num_large = rounds.amount(64, 16), rounds.amount(32, 8)
    with tempfile.TemporaryDirectory() as directory, one_thread():
        small = drawn_index(Path(directory) / "small", num_small, SMALL)
        large = drawn_index(Path(directory) / "large", num_large, LARGE)
        works = [
            Work("training, mosaic, from files", training_epoch(small), num_small, "image"),
            Work("training, mosaic, from memory", training_epoch(small, memory_cache(small)), num_small, "image"),
            Work(
                "training, left to a GPU, from memory",
                training_epoch(small, memory_cache(small), draws=False),
                num_small,
                "image",
            ),
            Work(
                "training, copies of polygons, memory",
                training_epoch(with_ellipses(small), memory_cache(small), Hyperparameters(copy_paste=0.5)),
                num_small,
                "image",
            ),
            Work("validation, 640 x 480", validation_epoch(small), num_small, "image"),
            Work("validation, 1920 x 1080", validation_epoch(large), num_large, "image"),
        ]
        return [measure("data", works, opencv_work(small.paths), rounds)]


def drawn_index(directory: Path, num_images: int, image_size: tuple[int, int]) -> ImageIndex:
    """Return the training split of a drawn set of images of `image_size`, width and height."""
    return scan_split(
        load_dataset(write_shapes_dataset(directory, num_train=num_images, num_val=1, image_size=image_size)), "train"
    )


def with_ellipses(index: ImageIndex) -> ImageIndex:
    """Return the index with the ellipse inscribed in each box as its polygon."""
    angles = np.linspace(0, 2 * np.pi, NUM_POINTS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    polygons = [(row[1:3] + circle * row[3:] / 2).astype(np.float32) for rows in index.labels for row in rows]
    return replace(index, outlines=Outlines.of(polygons))


def memory_cache(index: ImageIndex, imgsz: int = IMGSZ) -> DecodedImages:
    """Return a cache of decoded images that has room for those of `index` with their longer side at `imgsz`."""
    return new_memory_cache(plan_slots(index.shapes_hw, imgsz))


def training_epoch(
    index: ImageIndex, cache: DecodedImages | None = None, hyp: Hyperparameters | None = None, *, draws: bool = True
) -> Callable[[], None]:
    """Return a function that makes the batches of the next epoch in this process, or what a GPU draws them from."""
    loader = TrainingLoader(
        index,
        imgsz=IMGSZ,
        batch=BATCH,
        hyp=hyp or Hyperparameters(),
        seed=0,
        rank=0,
        world_size=1,
        workers=0,
        cache=cache,
        draws=draws,
    )
    epochs = count()
    return lambda: exhaust(loader.epoch(next(epochs)))


def validation_epoch(index: ImageIndex) -> Callable[[], None]:
    """Return a function that makes all validation batches in this process."""
    loader = ValidationLoader(index, imgsz=IMGSZ, batch=BATCH, stride=STRIDE, rank=0, world_size=1, workers=0)
    return lambda: exhaust(loader)


def opencv_work(paths: Iterable[str]) -> Work:
    """Return the reference: decoding and warping by OpenCV's functions alone."""
    chosen = [path for path, _ in zip(paths, range(DECODED), strict=False)]
    files = [np.frombuffer(Path(path).read_bytes(), dtype=np.uint8) for path in chosen]
    repeated = [files[number % len(files)] for number in range(DECODED)]
    matrix = np.array([[0.9, 0.1, 5.0], [-0.1, 0.9, 60.0]])

    def run() -> None:
        for content in repeated:
            pixels = cv2.imdecode(content, cv2.IMREAD_COLOR)
            assert pixels is not None
            cv2.warpAffine(pixels, matrix, (IMGSZ, IMGSZ))

    return Work(REFERENCE, run)


def exhaust(batches: Iterable[object]) -> None:
    """Make all batches and drop them."""
    for _ in batches:
        pass
