"""Measure training images per second on one core.

Mosaic at 640 px from 128 JPEGs of 640 x 480: decoded each time, from memory, and with polygons of 30 points.

OMP_NUM_THREADS=1 python benchmarks/loader.py
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from hpc_yolo.data.cache_files import new_memory_cache
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.decoded import CachedImages, plan_slots
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.polygons import Outlines
from hpc_yolo.data.samples import TrainingSamples
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.source import ImageFiles
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.spec.recipe import Hyperparameters

NUM_IMAGES = 128
IMGSZ = 640
EPOCHS = 3
NUM_POINTS = 30


def main() -> None:
    """Print a table; the first epoch is a warm-up and not counted."""
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as directory:
        path = write_shapes_dataset(Path(directory) / "set", num_train=NUM_IMAGES, num_val=1, image_size=(640, 480))
        boxes = scan_split(load_dataset(path), "train")
        outlined = with_ellipses(boxes)
        plain, copied = Hyperparameters(), Hyperparameters(copy_paste=0.5)
        files = ImageFiles(boxes, IMGSZ, augment=True)
        print_speed("from files", TrainingSamples(boxes, files, imgsz=IMGSZ, hyp=plain, seed=0))
        cached = CachedImages(files, new_memory_cache(plan_slots(boxes.shapes_hw, IMGSZ)))
        for name, index, hyp in (("boxes", boxes, plain), ("outlines", outlined, plain), ("copies", outlined, copied)):
            print_speed(f"from memory, {name}", TrainingSamples(index, cached, imgsz=IMGSZ, hyp=hyp, seed=0))


def print_speed(name: str, samples: TrainingSamples) -> None:
    """Print one line of the table."""
    started = 0.0
    for epoch in range(EPOCHS + 1):
        if epoch == 1:
            started = time.perf_counter()
        for image in range(NUM_IMAGES):
            samples.sample(epoch, image)
    print(f"{name:22} {NUM_IMAGES * EPOCHS / (time.perf_counter() - started):6.0f} images/s")


def with_ellipses(index: ImageIndex) -> ImageIndex:
    """Return the index with the ellipse inscribed in each box as its polygon."""
    angles = np.linspace(0, 2 * np.pi, NUM_POINTS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    polygons = [(row[1:3] + circle * row[3:] / 2).astype(np.float32) for rows in index.labels for row in rows]
    return replace(index, outlines=Outlines.of(polygons))


if __name__ == "__main__":
    main()
