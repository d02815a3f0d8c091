"""Check on a GPU that mixed precision learns and that no step waits; measure images per second and memory.

python benchmarks/gpu_check.py [RESULT.json]
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from hpc_yolo.bench.trainer import bare_step, make_trainer, random_batch, whole_step
from hpc_yolo.data.batch import TrainingBatch
from hpc_yolo.runs.metrics import total_loss
from hpc_yolo.spec.schema import TrainSpec
from hpc_yolo.training.trainer import Trainer

IMGSZ = 640
LEARNING_STEPS, LEARNING_BATCH = 200, 16
SPEED_MODELS, SPEED_BATCHES = ("yolov5n", "yolov5s", "yolov5l"), (16, 64)
LOADED = (("yolov5n", 64), ("yolov5s", 64), ("yolov5l", 16))
WARMUP_STEPS, TIMED_STEPS, LOADED_STEPS = 5, 20, 60
MIXED = {"fp16": torch.float16, "bf16": torch.bfloat16}


def main() -> None:
    """Print and write all values; exit with 1 where a loss did not fall, or a step waited for the GPU."""
    if not torch.cuda.is_available():
        sys.exit("no GPU here: torch.cuda.is_available() is False")
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cpus": len(os.sched_getaffinity(0)),
    }
    print(results, flush=True)
    results["learning"] = [learning(precision) for precision in ("fp32", "fp16", "bf16")]
    results["waits"] = {precision: waits_of_a_step(precision) for precision in ("fp32", "fp16", "bf16")}
    print(results["waits"], flush=True)
    results["speed"] = [
        speed(model, batch, precision) for model in SPEED_MODELS for batch in SPEED_BATCHES for precision in MIXED
    ]
    results["loaded"] = [loaded(model, batch) for model, batch in LOADED]
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(results, indent=2) + "\n")
    if not all(row["finite"] and row["last_loss"] < row["first_loss"] for row in results["learning"]):
        sys.exit("a loss is not finite, or did not fall")
    if results["waits"]["fp32"] or results["waits"]["bf16"]:
        sys.exit("the host waits for the GPU in a step")


def learning(precision: str) -> dict[str, Any]:
    """Train yolov5s on drawn shapes from scratch; return the mean loss of the first and the last 20 of 200 steps."""
    with tempfile.TemporaryDirectory() as directory:
        trainer = trainer_of("yolov5s", LEARNING_BATCH, precision, Path(directory), num_images=16 * LEARNING_BATCH)
        losses = []
        for batch in batches(trainer, LEARNING_STEPS):
            trainer.train_step(batch)
            trainer.position.step += 1
            terms, _ = trainer.context.meter.read_log()
            loss = total_loss(terms)
            losses.append(math.nan if loss is None else loss)
        row = {
            "precision": precision,
            "finite": all(map(math.isfinite, losses)) and math.isfinite(float(trainer.context.updater.grad_norm)),
            "first_loss": statistics.fmean(losses[:20]),
            "last_loss": statistics.fmean(losses[-20:]),
        }
    print(row, flush=True)
    return row


def batches(trainer: Trainer, count: int) -> Iterator[TrainingBatch]:
    """Yield `count` training batches of as many epochs as needed."""
    epoch = 0
    while True:
        for batch in trainer.context.training.epoch(epoch, 0):
            yield batch
            count -= 1
            if count == 0:
                return
        epoch += 1


def waits_of_a_step(precision: str) -> int:
    """Return how often the host waits for the GPU in a step; in fp16 the loss scale needs it once."""
    with tempfile.TemporaryDirectory() as directory:
        trainer = trainer_of("yolov5n", LEARNING_BATCH, precision, Path(directory), num_images=LEARNING_BATCH)
        images = random_batch(LEARNING_BATCH, IMGSZ).pin_memory()
        whole_step(trainer, images)
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            whole_step(trainer, images)
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing CUDA operation" in str(warning.message) for warning in seen)


def speed(model: str, batch: int, precision: str) -> dict[str, Any]:
    """Return images per second, peak memory and time over forward and backward alone, of steps on one batch."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    row: dict[str, Any] = {"model": model, "batch": batch, "precision": precision, "imgsz": IMGSZ}
    with tempfile.TemporaryDirectory() as directory:
        try:
            trainer = trainer_of(model, batch, precision, Path(directory), num_images=batch)
            images = random_batch(batch, IMGSZ).pin_memory()
            step_s = seconds_of(lambda: whole_step(trainer, images))
            row["images_per_s"] = batch / step_s
            row["peak_memory_bytes"] = torch.cuda.max_memory_reserved()
            pixels = (images.images.to("cuda").float() / 255).to(memory_format=torch.channels_last)
            row["over_bare"] = step_s / seconds_of(bare_step(model, pixels, MIXED[precision]))
        except torch.cuda.OutOfMemoryError:
            row["images_per_s"] = None
    print(row, flush=True)
    return row


def seconds_of(step: Callable[[], None]) -> float:
    """Return the mean seconds of a step."""
    for _ in range(WARMUP_STEPS):
        step()
    torch.cuda.synchronize()
    started_s = time.perf_counter()
    for _ in range(TIMED_STEPS):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - started_s) / TIMED_STEPS


def loaded(model: str, batch: int) -> dict[str, Any]:
    """Return images per second of training on JPEGs of 640 x 480, read and augmented by a worker on each core."""
    workers = len(os.sched_getaffinity(0)) - 1
    row: dict[str, Any] = {"model": model, "batch": batch, "workers": workers}
    with tempfile.TemporaryDirectory() as directory:
        trainer = trainer_of(
            model, batch, "bf16", Path(directory), num_images=8 * batch, image_size=(640, 480), workers=workers
        )
        started_s = 0.0
        for index, images in enumerate(batches(trainer, WARMUP_STEPS + LOADED_STEPS)):
            if index == WARMUP_STEPS:
                torch.cuda.synchronize()
                started_s = time.perf_counter()
            trainer.train_step(images)
            trainer.position.step += 1
        torch.cuda.synchronize()
        row["images_per_s"] = batch * LOADED_STEPS / (time.perf_counter() - started_s)
    print(row, flush=True)
    return row


def trainer_of(
    model: str,
    batch: int,
    precision: str,
    directory: Path,
    *,
    num_images: int,
    image_size: tuple[int, int] = (IMGSZ, IMGSZ),
    workers: int = 8,
) -> Trainer:
    """Return a trainer on the first GPU."""
    train = TrainSpec(batch=batch, imgsz=IMGSZ, workers=workers, device="0", precision=precision, autoanchor=False)  # type: ignore[arg-type]
    return make_trainer(model, train, directory, num_images=num_images, image_size=image_size)


if __name__ == "__main__":
    main()
