"""What the parts of `gpu_check` share: the device, sizes, the time that is left, and trainers without runs."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from hpc_yolo.bench.trainer import draw_set, trainer_on
from hpc_yolo.data.undrawn import AnyTrainingBatch
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.training.trainer import Trainer

Row = dict[str, Any]
ROUNDS = 3
MIXED = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        imgsz: side of the images in pixels.
        models: names, the smallest first.
        batches: images of a step.
        precisions: of the table of speeds.
        image_wh: width and height of image files.
        learning_steps: of each precision.
        warmup_steps: before steps are timed.
        timed_steps: of each mean.
        loaded_s: in which the loader makes batches alone, and then for training, once before and once measured.
    """

    imgsz: int
    models: tuple[str, ...]
    batches: tuple[int, ...]
    precisions: tuple[str, ...]
    image_wh: tuple[int, int]
    learning_steps: int
    warmup_steps: int
    timed_steps: int
    loaded_s: float


WHOLE = Sizes(
    640,
    ("yolov5n", "yolov5s", "yolov5m", "yolov5l", "yolov5x"),
    (16, 64, 128),
    ("bf16", "fp16"),
    (640, 480),
    learning_steps=100,
    warmup_steps=4,
    timed_steps=8,
    loaded_s=2.0,
)
DRY = Sizes(
    64, ("yolov5n",), (2, 4), ("bf16",), (64, 48), learning_steps=4, warmup_steps=1, timed_steps=1, loaded_s=0.1
)


@dataclass(frozen=True)
class Card:
    """The device that is measured.

    Attributes:
        deadline_s: when the part must end, of `time.monotonic`.
    """

    device: torch.device
    sizes: Sizes
    deadline_s: float

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU; else nothing is measured but that all parts run."""
        return self.device.type == "cuda"

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline_s - time.monotonic()

    def within(self, seconds: float) -> Card:
        """Return the card for a part that may take `seconds`, at most what is left."""
        return replace(self, deadline_s=min(self.deadline_s, time.monotonic() + seconds))

    def synchronize(self) -> None:
        """Wait for all that the device has been given."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def forget_peak(self) -> None:
        """Free unused memory, and measure its peak anew."""
        if self.is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int | None:
        """Return the most memory since `forget_peak`; None on a CPU."""
        return torch.cuda.max_memory_reserved() if self.is_gpu else None

    def seconds_of(self, step: Callable[[], object]) -> float:
        """Return the seconds of a step: the median of a few means, of which one may hold a stall of the machine."""
        for _ in range(self.sizes.warmup_steps):
            step()
        return statistics.median(self._mean_seconds_of(step) for _ in range(ROUNDS))

    def _mean_seconds_of(self, step: Callable[[], object]) -> float:
        self.synchronize()
        started_s = time.perf_counter()
        for _ in range(self.sizes.timed_steps):
            step()
        self.synchronize()
        return (time.perf_counter() - started_s) / self.sizes.timed_steps

    @contextmanager
    def trainer(
        self, model: str, batch: int, precision: str, *, num_images: int, data: Path | None = None, **train: Any
    ) -> Iterator[Trainer]:
        """Yield a trainer on this device, on drawn images or the dataset `data`."""
        fields = {
            "batch": batch,
            "imgsz": self.sizes.imgsz,
            "workers": workers(),
            "device": "0" if self.is_gpu else "cpu",
            "precision": precision,
            "autoanchor": False,
        }
        with tempfile.TemporaryDirectory() as directory:
            path = data or draw_set(Path(directory) / "set", num_images, self.sizes.image_wh)
            yield trainer_on(path, model, TrainSpec(**(fields | train)), Path(directory))


def workers() -> int:
    """Return the loader processes of a benchmark: one a core, but for that of the task."""
    return max(len(os.sched_getaffinity(0)) - 1, 1)


def batches(trainer: Trainer) -> Iterator[AnyTrainingBatch]:
    """Yield training batches of one epoch after the other."""
    for epoch in count():
        yield from trainer.context.training.epoch(epoch)
