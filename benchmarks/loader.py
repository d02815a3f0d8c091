"""Training pictures a second on one core: mosaic at 640 px from 128 JPEGs of 640 x 480, read anew and from memory.

OMP_NUM_THREADS=1 python benchmarks/loader.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import cv2

from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.labels import scan_split
from hpc_yolo.data.loader import TrainingPictures
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.spec.schema import Hyperparameters

NUM_IMAGES = 128
IMGSZ = 640
EPOCHS = 3


def main() -> None:
    """Print a table; the first epoch warms up and does not count."""
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        path = write_shapes_dataset(Path(folder) / "set", num_train=NUM_IMAGES, num_val=1, image_size=(640, 480))
        index = scan_split(load_dataset(path), "train")
        for name, in_memory in (("from files", False), ("from memory", True)):
            pictures = TrainingPictures(index, imgsz=IMGSZ, hyp=Hyperparameters(), seed=0, in_memory=in_memory)
            started = 0.0
            for epoch in range(EPOCHS + 1):
                if epoch == 1:
                    started = time.perf_counter()
                for image in range(NUM_IMAGES):
                    pictures.sample(epoch, image)
            print(f"{name:12} {NUM_IMAGES * EPOCHS / (time.perf_counter() - started):6.0f} pictures/s")


if __name__ == "__main__":
    main()
