"""Train models from scratch on a small drawn dataset with several seeds; print the mAP and the time of each.

Two datasets, the same on every machine:

parity  200 + 60 images of 320 x 240, filled rectangles and ellipses of four classes, defined by its random draws, so
        that other trainers can be compared (required of yolov5n: a mean mAP50-95 of 0.49); 60 epochs at 160 px
glyphs  `hpc-yolo data synth --kind glyphs`: 200 + 60 images of 160 x 160, letters and digits of 8 to 40 px on
        textures, eight classes; not used to find hyperparameters; 40 epochs at 160 px

The models take turns for each seed, so that other load affects all of them; CPU seconds are those of a run, which is
the submitting process (executor debug), and its loader workers. Hyperparameters are those of the model.

python benchmarks/learning.py DIRECTORY [--models yolov5n yolov5n-af] [--data glyphs] [--seeds 0 1 2]
                              [--set data.mosaic_partners=window]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import astuple, dataclass
from pathlib import Path

import cv2
import numpy as np

from hpc_yolo.data.synth import GLYPHS, write_drawn_dataset
from hpc_yolo.runs.event_lines import metrics_text
from hpc_yolo.runs.events import Evaluated
from hpc_yolo.runs.journal import read_events

WIDTH, HEIGHT = 320, 240
COLOURS_BGR = ((40, 40, 220), (40, 200, 40), (220, 60, 40), (40, 200, 220))
NAMES = ("red box", "green box", "blue ellipse", "yellow ellipse")
PARITY = "parity"
EPOCHS = {PARITY: 60, GLYPHS: 40}
SPEC = """
cluster: {executor: debug, gpus_per_node: 0}
train: {batch: 16, imgsz: 160, device: cpu, workers: 1}
checkpoint: {every_s: null}
"""


@dataclass(frozen=True)
class Result:
    """Metrics after the last epoch of a run, and its time in seconds with start-up."""

    map50: float
    map50_95: float
    wall_s: float
    cpu_s: float

    def __str__(self) -> str:
        return (
            f"mAP50 {self.map50:.3f}, mAP50-95 {self.map50_95:.3f}, {self.wall_s:.0f} s, {self.cpu_s:.0f} s of CPU time"
        )


def main() -> None:
    """Draw the dataset, train each model with each seed, print the last metrics, the means and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--models", nargs="+", default=["yolov5n"])
    parser.add_argument("--data", choices=(PARITY, GLYPHS), default=PARITY)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], dest="changes", help="a field of the spec, as of submit")
    options = parser.parse_args()
    data = dataset(options.data, options.directory / options.data)
    results: dict[str, list[Result]] = {model: [] for model in options.models}
    for seed in options.seeds:
        for model in options.models:
            name = f"{options.data}-{model}-seed{seed}"
            own = {"name": name, "model": model, "train.seed": seed, "train.epochs": EPOCHS[options.data]}
            changes = [*(f"{field}={value}" for field, value in own.items()), *options.changes]
            results[model].append(train(options.directory, name, data, changes))
            print(f"{name}: {results[model][-1]}", flush=True)
    means = {model: mean(found) for model, found in results.items()}
    for model, found in means.items():
        print(f"{options.data}, mean of {len(options.seeds)} seeds, {model}: {found}")
    first, *others = options.models
    for model in others:
        print(f"{model} over {first}: {compared(means[model], means[first])}")


def mean(results: list[Result]) -> Result:
    """Return the means of each value."""
    return Result(*map(statistics.mean, zip(*map(astuple, results), strict=True)))


def compared(one: Result, other: Result) -> str:
    """Return differences of the metrics of two models and ratios of their times, for a line."""
    return (
        f"mAP50 {one.map50 - other.map50:+.3f}, mAP50-95 {one.map50_95 - other.map50_95:+.3f}, "
        f"{one.wall_s / other.wall_s:.2f} times the time, {one.cpu_s / other.cpu_s:.2f} times the CPU time"
    )


def dataset(name: str, directory: Path) -> Path:
    """Draw a dataset; return the path of its YAML."""
    if name == GLYPHS:
        return write_drawn_dataset(GLYPHS, directory, num_train=200, num_val=60, image_size=(160, 160))
    return draw_set(directory)


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


def train(directory: Path, name: str, data: Path, changes: list[str]) -> Result:
    """Train a run of this name below `directory`; return what came of it."""
    spec = directory / f"{name}.yaml"
    spec.write_text(f"name: {name}\ndata: {data}\noutput: {directory}\n{SPEC}")
    command = [sys.executable, "-m", "hpc_yolo", "submit", str(spec)]
    command += [part for change in changes for part in ("--set", change)]
    started_s, cpu_before_s = time.monotonic(), children_cpu_s()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall_s, cpu_s = time.monotonic() - started_s, children_cpu_s() - cpu_before_s
    events = [event for event in read_events(directory / name / "journal.jsonl") if isinstance(event, Evaluated)]
    for event in events[9::10]:
        print(f"{name} epoch {event.epoch}: {metrics_text(event)}", flush=True)
    return Result(events[-1].metrics.map50, events[-1].metrics.map50_95, wall_s, cpu_s)


def children_cpu_s() -> float:
    """Return the CPU seconds, of user and system, of all processes started here that have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
