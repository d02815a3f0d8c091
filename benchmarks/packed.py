"""Measure packed sets: packing, verifying, samples beside those of loose files and archives, and files that are opened.

CPU time throughout, so that other load does not matter, but for the start, whose wall time is printed too. Images are
JPEGs of 640 x 480 with 60 to 100 KB.

OMP_NUM_THREADS=1 python benchmarks/packed.py [--images 1000] [--entries 100000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import functools
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

from archives import tar_of, zip_of

from hpc_yolo.data.contents import read_content
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.loader import TrainingLoader
from hpc_yolo.data.pack.build import pack_dataset
from hpc_yolo.data.pack.layout import Options
from hpc_yolo.data.pack.verify import verify_set
from hpc_yolo.data.samples import TrainingSamples
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.source import ImageFiles
from hpc_yolo.spec.recipe import Hyperparameters

SIZE_WH = 640, 480
NUM_SAMPLES = 64
IMGSZ = 640
TINY = 32  # pixels of the many images
TRACED = "openat,open"


def main() -> None:
    """Print one line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epoch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    if options.epoch is not None:
        one_epoch(options.epoch)
        return
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        measure_samples(root, options.images, options.rounds)
        measure_many(root / "many", options.entries)


def write_images(root: Path, number: int, size_wh: tuple[int, int], num_kinds: int = 64) -> Path:
    """Write a dataset of smooth noise, `num_kinds` different images with one box each, and return its YAML."""
    random = np.random.default_rng(0)
    width, height = size_wh
    contents = []
    for _ in range(num_kinds):
        coarse = random.integers(0, 256, (max(height // 5, 2), max(width // 5, 2), 3), dtype=np.uint8)
        pixels = cv2.resize(coarse, size_wh, interpolation=cv2.INTER_CUBIC)
        contents.append(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True)
    for image in range(number):
        (root / "images" / "train" / f"{image:06}.jpg").write_bytes(contents[image % num_kinds])
        (root / "labels" / "train" / f"{image:06}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    (root / "d.yaml").write_text("train: images/train\nval: images/train\nnames: [thing]\n")
    return root / "d.yaml"


def packed(data: Path, directory: Path, label: str) -> Path:
    """Pack a dataset that has been scanned, and print the images per second."""
    dataset = load_dataset(data)
    index = scan_split(dataset, "train")
    started_s = time.process_time()
    pack_dataset(dataset, {"train": index, "val": index}, directory, Options())
    taken_s = time.process_time() - started_s
    size = sum(path.stat().st_size for path in directory.iterdir())
    print(
        f"pack {label}: {index.num_images / taken_s:.0f} images/s of a core, {size / taken_s / 1e6:.0f} MB/s",
        flush=True,
    )
    return directory


def measure_samples(root: Path, num_images: int, rounds: int) -> None:
    """Print speeds of packing, verifying and sampling."""
    data = write_images(root / "loose", num_images, SIZE_WH)
    directory = packed(data, root / "packed", "640 x 480")
    size = sum(path.stat().st_size for path in directory.iterdir())
    started_s, wall_s = time.process_time(), time.perf_counter()
    assert verify_set(directory) == []
    taken_s, wall_s = time.process_time() - started_s, time.perf_counter() - wall_s
    print(f"verify: {size / taken_s / 1e6:.0f} MB/s of a core, {size / wall_s / 1e6:.0f} MB/s of wall time", flush=True)
    sources = {
        "loose": data,
        "packed": directory,
        "tar": tar_of(data.parent, root / "x.tar"),
        "zip": zip_of(data.parent, root / "stored.zip"),
        "deflated zip": zip_of(data.parent, root / "x.zip", method=zipfile.ZIP_DEFLATED),
    }
    indexes = {name: scan_split(load_dataset(path), "train") for name, path in sources.items()}
    print_ratios("read", {name: functools.partial(read_all, index) for name, index in indexes.items()}, rounds)
    print_ratios("mosaic 640 px", {name: mosaics(index) for name, index in indexes.items()}, rounds)
    content = read_content(indexes["packed"].paths[0])
    started_s = time.process_time()
    for _ in range(1000):
        zlib.crc32(content)
    print(f"CRC of {len(content)} bytes: {(time.process_time() - started_s) * 1000:.1f} us", flush=True)


def read_all(index: ImageIndex) -> None:
    """Read the first images."""
    for image in range(min(index.num_images, 500)):
        read_content(index.paths[image])


def mosaics(index: ImageIndex) -> Callable[[], None]:
    """Return a function that makes samples."""
    samples = TrainingSamples(index, ImageFiles(index, IMGSZ, augment=True), imgsz=IMGSZ, hyp=Hyperparameters(), seed=0)

    def run() -> None:
        for image in range(NUM_SAMPLES):
            samples.sample(0, image)

    return run


def print_ratios(what: str, ways: dict[str, Callable[[], None]], rounds: int) -> None:
    """Print the CPU time of each way, and its speed over the first, in alternating rounds after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, run in ways.items():
            started_s = time.process_time()
            run()
            seconds[name].append(time.process_time() - started_s)
    first = seconds[next(iter(ways))][1:]
    for name, taken in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(first, taken[1:], strict=True))
        print(f"{what}, {name}: {statistics.median(taken[1:]):.3f} s, {ratio:.3f} times the speed of loose", flush=True)


def measure_many(root: Path, num_entries: int) -> None:
    """Print the start, and the files that one epoch opens, of a packed set of many tiny images."""
    directory = packed(write_images(root / "loose", num_entries, (48, 48)), root / "packed", "48 x 48")
    log = root / "trace"
    command = ["strace", "-f", "--seccomp-bpf", "-e", f"trace={TRACED}", "-o", log, sys.executable, __file__]
    subprocess.run([*map(str, command), "--epoch", str(directory)], check=True)
    opened = [line for line in log.read_text(errors="replace").splitlines() if f'"{directory}' in line]
    print(f"files of the set opened in an epoch of {num_entries} images, 4 workers: {len(opened)}", flush=True)


def one_epoch(directory: Path) -> None:
    """Load one epoch with workers, and print the time to its first batch."""
    started_s, wall_s = time.process_time(), time.perf_counter()
    index = scan_split(load_dataset(directory), "train")
    index_s = time.process_time() - started_s
    hyp = Hyperparameters(mosaic=0)
    options = {"imgsz": TINY, "batch": 256, "seed": 0, "rank": 0, "world_size": 1, "workers": 4}
    batches = TrainingLoader(index, hyp=hyp, **options).epoch(0)  # type: ignore[arg-type]
    next(batches)
    print(
        f"start to first batch of {index.num_images} entries: {time.perf_counter() - wall_s:.2f} s of wall time; "
        f"the index {index_s:.2f} s of CPU time",
        flush=True,
    )
    for _ in batches:
        pass


if __name__ == "__main__":
    main()
