"""Measure batches of training and validation images per second of CPU time of one core.

Each way is measured beside the one that it replaced, in alternating rounds: a whole mosaic canvas that is warped
(`tests/helpers/canvas_samples.py`), and JPEGs decoded at their full size for validation. Mosaic at 640 px from JPEGs of
640 x 480: decoded each time, with partners from a window of the order, from memory, with polygons of 30 points, and
what is left to a loader worker with `train.augment_device: gpu`.

OMP_NUM_THREADS=1 python benchmarks/loader.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

from canvas_samples import CanvasSamples

from hpc_yolo.data.cache_files import new_memory_cache
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.decoded import CachedImages, plan_slots
from hpc_yolo.data.images import letterbox, read_image, resize_to, resized_wh, to_chw_rgb
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.polygons import Outlines
from hpc_yolo.data.sampler import WINDOW, windows
from hpc_yolo.data.samples import TrainingSamples, ValidationSamples
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.source import ImageFiles, RecentImages
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.data.undrawn import Collector
from hpc_yolo.spec.recipe import Hyperparameters

NUM_IMAGES = 64
BATCH = 16
IMGSZ = 640
NUM_POINTS = 30
LARGE_WH = 1920, 1080
ROUNDS = 7

BATCH_MEMORY = np.zeros(BATCH * IMGSZ * IMGSZ * 3, dtype=np.uint8)

Ways = dict[str, Callable[[int], object]]  # one epoch of images, by name


def main() -> None:
    """Print a table for each group of ways; the first round is a warm-up and not counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        small = index_of(Path(directory) / "small", (640, 480))
        large = index_of(Path(directory) / "large", LARGE_WH)
        print_speeds("training, from files", training_ways(small), rounds)
        print_speeds("training, from memory", cached_ways(small), rounds)
        for name, index in (("640 x 480", small), ("1920 x 1080", large)):
            print_speeds(f"validation, from {name}", validation_ways(index), rounds)


def index_of(directory: Path, image_size: tuple[int, int]) -> ImageIndex:
    """Draw images of one size and return their index."""
    path = write_shapes_dataset(directory, num_train=NUM_IMAGES, num_val=1, image_size=image_size)
    return scan_split(load_dataset(path), "train")


def print_speeds(group: str, ways: Ways, rounds: int) -> None:
    """Print images per second of each way, and its ratio to the first: medians over rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            started_s = time.process_time()
            run(number)
            seconds[name].append(time.process_time() - started_s)
    first = seconds[next(iter(ways))][1:]
    for name, taken in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(first, taken[1:], strict=True))
        print(f"{group}: {name:34} {NUM_IMAGES / statistics.median(taken[1:]):6.0f} images/s  {ratio:5.2f}", flush=True)


def training_ways(index: ImageIndex) -> Ways:
    """Return ways to make mosaics from files."""
    files = ImageFiles(index, IMGSZ, augment=True)
    return {
        "canvas": canvas_epochs(index, files),
        "partners from the epoch": tile_epochs(index, files),
        "for a GPU that draws": undrawn_epochs(index, files),
        "partners from a window": tile_epochs(index, RecentImages(files, 2 * WINDOW), has_windows=True),
    }


def cached_ways(index: ImageIndex) -> Ways:
    """Return ways to make mosaics from decoded images."""
    cached = CachedImages(ImageFiles(index, IMGSZ, augment=True), new_memory_cache(plan_slots(index.shapes_hw, IMGSZ)))
    outlined = with_ellipses(index)
    return {
        "canvas": canvas_epochs(index, cached),
        "boxes": tile_epochs(index, cached),
        "for a GPU that draws": undrawn_epochs(index, cached),
        "polygons": tile_epochs(outlined, cached),
        "polygons, copy_paste: 0.5": tile_epochs(outlined, cached, copy_paste=0.5),
        "mixup: 0.1": tile_epochs(index, cached, mixup=0.1),
        "degrees: 10": tile_epochs(index, cached, degrees=10),
    }


def canvas_epochs(index: ImageIndex, source: ImageFiles | CachedImages) -> Callable[[int], object]:
    """Return a function of an epoch that makes its batches as before."""
    samples = CanvasSamples(index, source, imgsz=IMGSZ, hyp=Hyperparameters(), seed=0)

    def run(epoch: int) -> None:
        for start in range(0, NUM_IMAGES, BATCH):
            images = [samples.sample(epoch, image)[0] for image in range(start, start + BATCH)]
            torch.from_numpy(np.stack(images)).share_memory_()  # type: ignore[no-untyped-call]

    return run


def tile_epochs(
    index: ImageIndex, source: ImageFiles | RecentImages | CachedImages, *, has_windows: bool = False, **hyp: Any
) -> Callable[[int], object]:
    """Return a function of an epoch that makes its batches."""
    samples = TrainingSamples(index, source, imgsz=IMGSZ, hyp=Hyperparameters(**hyp), seed=0)
    order = np.arange(NUM_IMAGES)
    partners = list(windows(order, order)) if has_windows else [None] * NUM_IMAGES

    def run(epoch: int) -> None:
        for start in range(0, NUM_IMAGES, BATCH):
            for image, out in enumerate(rows_of_batch((IMGSZ, IMGSZ)), start):
                samples.sample(epoch, image, out=out, partners=partners[image])

    return run


def undrawn_epochs(index: ImageIndex, source: ImageFiles | CachedImages) -> Callable[[int], object]:
    """Return a function of an epoch that makes what a GPU draws its batches from."""
    samples = TrainingSamples(index, source, imgsz=IMGSZ, hyp=Hyperparameters(), seed=0)
    collector = Collector(Hyperparameters())

    def run(epoch: int) -> None:
        for start in range(0, NUM_IMAGES, BATCH):
            for image in range(start, start + BATCH):
                samples.make(collector.add, epoch, image)
            collector.take()

    return run


def validation_ways(index: ImageIndex) -> Ways:
    """Return ways to make validation batches from files."""
    samples = ValidationSamples(index, ImageFiles(index, IMGSZ, augment=False))
    height, width = index.shapes_hw[0].tolist()
    size_wh = resized_wh(width, height, IMGSZ)
    shape = -(-size_wh[1] // 32) * 32, IMGSZ

    def whole(_epoch: int) -> None:
        for start in range(0, NUM_IMAGES, BATCH):
            images = []
            for image in range(start, start + BATCH):
                resized = resize_to(read_image(index.paths[image]), size_wh, augment=False)
                images.append(to_chw_rgb(letterbox(resized, shape, scaleup=False)[0]))
            torch.from_numpy(np.stack(images)).share_memory_()  # type: ignore[no-untyped-call]

    def framed(_epoch: int) -> None:
        for start in range(0, NUM_IMAGES, BATCH):
            for image, out in enumerate(rows_of_batch(shape), start):
                samples.sample(image, shape, out)

    return {"decoded whole": whole, "framed in place": framed}


def rows_of_batch(shape: tuple[int, int]) -> np.ndarray:
    """Return the memory of a batch (BATCH, *shape, 3), which a loader worker uses again for others."""
    return BATCH_MEMORY[: BATCH * shape[0] * shape[1] * 3].reshape(BATCH, *shape, 3)


def with_ellipses(index: ImageIndex) -> ImageIndex:
    """Return the index with the ellipse inscribed in each box as its polygon."""
    angles = np.linspace(0, 2 * np.pi, NUM_POINTS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    polygons = [(row[1:3] + circle * row[3:] / 2).astype(np.float32) for rows in index.labels for row in rows]
    return replace(index, outlines=Outlines.of(polygons))


if __name__ == "__main__":
    main()
