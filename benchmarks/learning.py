"""Train yolov5n from scratch on a small drawn dataset with several seeds; the mAP is compared with reference values.

The dataset is defined by its random draws, so it is the same on every machine: 200 + 60 images of 320 x 240 with filled
rectangles and ellipses of four classes. 60 epochs at 160 px, batch 16, hyperparameters scratch-low.

python benchmarks/learning.py DIRECTORY [--seeds 0 1 2] [--set data.mosaic_partners=window]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from hpc_yolo.runs.event_lines import metrics_text
from hpc_yolo.runs.events import Evaluated
from hpc_yolo.runs.journal import read_events

WIDTH, HEIGHT = 320, 240
COLOURS_BGR = ((40, 40, 220), (40, 200, 40), (220, 60, 40), (40, 200, 220))
NAMES = ("red box", "green box", "blue ellipse", "yellow ellipse")
SPEC = """
model: yolov5n
cluster: {executor: local, gpus_per_node: 0, tasks_per_node: 1}
train: {epochs: 60, batch: 16, imgsz: 160, device: cpu, workers: 1}
checkpoint: {every_s: null}
"""


def main() -> None:
    """Draw the dataset, train each seed, print its last metrics and the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], dest="changes", help="a field of the spec, as of submit")
    options = parser.parse_args()
    data = draw_set(options.directory / "set")
    spec = options.directory / "spec.yaml"
    rows = [train(spec, data, options.directory, seed, options.changes) for seed in options.seeds]
    means = [statistics.mean(column) for column in zip(*rows, strict=True)]
    print(f"mean: mAP50 {means[0]:.3f}, mAP50-95 {means[1]:.3f}, {means[2]:.0f} s a run")


def draw_set(directory: Path) -> Path:
    """Write images and labels; return the path of the dataset YAML."""
    random = np.random.default_rng(123)
    for split, count in (("train", 200), ("val", 60)):
        for kind in ("images", "labels"):
            (directory / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels, labels = draw_image(random)
            cv2.imwrite(str(directory / "images" / split / f"{index:04d}.png"), pixels)
            (directory / "labels" / split / f"{index:04d}.txt").write_text("".join(labels))
    path = directory / "dataset.yaml"
    names = ", ".join(NAMES)
    path.write_text(f"train: images/train\nval: images/val\nnames: [{names}]\n")
    return path


def draw_image(random: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Draw one image (240, 320, 3) BGR and the lines of its label file; the order of the draws defines the dataset."""
    background = random.integers(60, 121, 3)
    noise = random.integers(-15, 16, (HEIGHT, WIDTH, 3))
    pixels = (background + noise).astype(np.uint8)
    labels = []
    for _ in range(int(random.integers(1, 6))):
        kind, w, h = int(random.integers(0, 4)), int(random.integers(24, 97)), int(random.integers(24, 97))
        x, y = int(random.integers(0, WIDTH - w)), int(random.integers(0, HEIGHT - h))
        if kind < 2:
            cv2.rectangle(pixels, (x, y), (x + w - 1, y + h - 1), COLOURS_BGR[kind], cv2.FILLED)
        else:
            centre, half_axes = (x + w // 2, y + h // 2), (w // 2, h // 2)
            cv2.ellipse(pixels, centre, half_axes, 0, 0, 360, COLOURS_BGR[kind], cv2.FILLED)
        box = (x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT
        labels.append(f"{kind} " + " ".join(f"{value:.6f}" for value in box) + "\n")
    return pixels, labels


def train(spec: Path, data: Path, directory: Path, seed: int, changes: list[str]) -> tuple[float, float, float]:
    """Train one seed; return mAP50 and mAP50-95 after the last epoch, and the seconds with start-up."""
    spec.write_text(f"name: seed{seed}\ndata: {data}\noutput: {directory}\n{SPEC}")
    command = [sys.executable, "-m", "hpc_yolo", "submit", str(spec), "--set", f"train.seed={seed}"]
    command += [part for change in changes for part in ("--set", change)]
    started_s = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started_s
    evaluations = [
        event for event in read_events(directory / f"seed{seed}" / "journal.jsonl") if isinstance(event, Evaluated)
    ]
    for event in evaluations[9::10]:
        print(f"seed {seed} epoch {event.epoch}: {metrics_text(event)}")
    last = evaluations[-1]
    print(f"seed {seed}: {metrics_text(last)} after {seconds:.0f} s", flush=True)
    return last.metrics.map50, last.metrics.map50_95, seconds


if __name__ == "__main__":
    main()
