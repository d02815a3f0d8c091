"""Measure `hpc-yolo data check`: images per second of a core, its parts, threads, and the search for similar images.

OMP_NUM_THREADS=1 python benchmarks/data_check.py [--images 600] [--codes 118287]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from hpc_yolo.data.check.boxes import box_findings
from hpc_yolo.data.check.dataset import check_dataset, open_splits
from hpc_yolo.data.check.duplicates import SeenImages
from hpc_yolo.data.check.image import check_image
from hpc_yolo.data.check.looks import THUMBNAIL_PIXELS, Look, look_of
from hpc_yolo.data.contents import read_content
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.formats.split import SplitReader
from hpc_yolo.data.image_checks import usable_pixels
from hpc_yolo.data.labels import NO_LABELS
from hpc_yolo.data.synth import write_shapes_dataset

ROUNDS = 3


def main() -> None:
    """Print all measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--codes", type=int, default=118_287)
    options = parser.parse_args()
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as directory:
        path = write_shapes_dataset(Path(directory) / "set", num_train=options.images, num_val=1, image_size=(640, 480))
        dataset = load_dataset(path)
        reader = open_splits(dataset, ["train"]).readers["train"]
        for name, part in parts(reader).items():
            print(f"{name:44} {median(milliseconds(part, reader) for _ in range(ROUNDS)):6.2f} ms CPU time an image")
        for num_threads in (1, 2):
            began, began_cpu = time.perf_counter(), time.process_time()
            check_dataset(dataset, open_splits(dataset, ["train"]), imgsz=640, num_threads=num_threads)
            wall, cpu = time.perf_counter() - began, time.process_time() - began_cpu
            rates = f"{options.images / wall:.0f} images/s, {options.images / cpu:.0f} a second of CPU time"
            print(f"whole check, {num_threads} threads: {rates}")
    similar(options.codes)


def parts(reader: SplitReader) -> dict[str, Callable[[Path], object]]:
    """Return the parts of the check of one image by name."""
    labels = {image: reader.read(image).labels for image in reader.images}
    return {
        "all of one image": lambda image: check_image(image, reader, 640),
        "read, decode (without Python's lock)": lambda image: usable_pixels(image, read_content(str(image))),
        "read, decode, hashes (mostly without it)": lambda image: look_of(
            content := read_content(str(image)), usable_pixels(image, content)
        ),
        "labels and boxes (with it)": lambda image: (
            reader.read_each(image),
            box_findings(labels[image], (480, 640), 640),
        ),
    }


def milliseconds(part: Callable[[Path], object], reader: SplitReader) -> float:
    """Return the CPU time of `part` for each image."""
    began = time.process_time()
    for image in reader.images:
        part(image)
    return (time.process_time() - began) / len(reader.images) * 1000


def similar(num_codes: int) -> None:
    """Print the time and memory of finding similar images among random ones of which a tenth has a near one."""
    random = np.random.default_rng(0)
    codes = random.integers(0, 2**64, num_codes, dtype=np.uint64)
    copies = slice(0, num_codes // 10)
    codes[copies] = codes[num_codes // 10 : 2 * (num_codes // 10)] ^ np.uint64(5)
    seen = SeenImages()
    thumbnail = random.integers(0, 256, THUMBNAIL_PIXELS**2, dtype=np.uint8).tobytes()
    for number, code in enumerate(codes.tolist()):
        seen.add(
            "train",
            f"/data/images/train/{number:012}.jpg",
            Look(number.to_bytes(32, "big"), code, thumbnail),
            NO_LABELS,
        )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    found = sum(1 for _ in seen.findings())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{found} of {num_codes} images with a near one: {time.process_time() - began:.1f} s of CPU time, "
        f"{peak / 1024:.0f} MiB at most, {(peak - before) / 1024:.0f} MiB of them for the search"
    )


if __name__ == "__main__":
    main()
