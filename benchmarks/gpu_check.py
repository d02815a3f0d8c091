"""Check on a GPU that mixed precision stays finite and learns; measure peak memory and images per second.

python benchmarks/gpu_check.py [RESULT.json]
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from step import make_trainer, random_batch, whole_step

from hpc_yolo.data.batch import TrainingBatch
from hpc_yolo.runs.metrics import total_loss
from hpc_yolo.spec.schema import TrainSpec
from hpc_yolo.training.trainer import Trainer

IMGSZ = 640
LEARNING_STEPS, LEARNING_BATCH = 200, 16
SPEED_MODELS, SPEED_BATCHES = ("yolov5n", "yolov5s", "yolov5l"), (16, 64)
WARMUP_STEPS, TIMED_STEPS = 5, 20


def main() -> None:
    """Print and write all values; exit with 1 where a loss is not finite or did not fall."""
    if not torch.cuda.is_available():
        sys.exit("no GPU here: torch.cuda.is_available() is False")
    results: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    print(results, flush=True)
    results["learning"] = [learning(precision) for precision in ("fp32", "fp16", "bf16")]
    results["speed"] = [
        speed(model, batch, precision)
        for model in SPEED_MODELS
        for batch in SPEED_BATCHES
        for precision in ("fp16", "bf16")
    ]
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(results, indent=2) + "\n")
    if not all(row["finite"] and row["last_loss"] < row["first_loss"] for row in results["learning"]):
        sys.exit("a loss is not finite, or did not fall")


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


def speed(model: str, batch: int, precision: str) -> dict[str, Any]:
    """Return images per second and peak memory of training steps on one batch that is in memory."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    row: dict[str, Any] = {"model": model, "batch": batch, "precision": precision, "imgsz": IMGSZ}
    with tempfile.TemporaryDirectory() as directory:
        try:
            trainer = trainer_of(model, batch, precision, Path(directory), num_images=batch)
            images = random_batch(batch, IMGSZ)
            for _ in range(WARMUP_STEPS):
                whole_step(trainer, images)
            torch.cuda.synchronize()
            started_s = time.perf_counter()
            for _ in range(TIMED_STEPS):
                whole_step(trainer, images)
            torch.cuda.synchronize()
            row["images_per_s"] = batch * TIMED_STEPS / (time.perf_counter() - started_s)
        except torch.cuda.OutOfMemoryError:
            row["images_per_s"] = None
        row["peak_memory_bytes"] = torch.cuda.max_memory_reserved()
    print(row, flush=True)
    return row


def trainer_of(model: str, batch: int, precision: str, directory: Path, *, num_images: int) -> Trainer:
    """Return a trainer on the first GPU."""
    train = TrainSpec(batch=batch, imgsz=IMGSZ, workers=8, device="0", precision=precision, autoanchor=False)  # type: ignore[arg-type]
    return make_trainer(model, train, directory, num_images=num_images, image_size=(IMGSZ, IMGSZ))


if __name__ == "__main__":
    main()
