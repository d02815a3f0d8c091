"""Benchmark `checkpoint`: steps with a save among them, a save until it is on disk, and reading it back."""

from __future__ import annotations

import itertools
import tempfile
from functools import partial
from pathlib import Path

from hpc_yolo.bench.records import BenchResult
from hpc_yolo.bench.rounds import Rounds, Work, measure
from hpc_yolo.bench.trainer import make_trainer, random_batch
from hpc_yolo.checkpoint import restore
from hpc_yolo.checkpoint.store import state_path
from hpc_yolo.core.errors import DataError
from hpc_yolo.data.batch import TrainingBatch
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.training.trainer import Trainer

MODEL, QUICK_MODEL = "yolov5s", "yolov5n"
BATCH, IMGSZ = 4, 320


def bench_checkpoint(rounds: Rounds) -> list[BenchResult]:
    """Return wall times of steps of v5s with a save at the first, of a synchronous save, and of a load.

    The reference is the same number of steps without a save. Files are in the directory of temporary files.

    Raises:
        DataError: a checkpoint cannot be written there.
    """
    num_steps, model = rounds.amount(6, 2), QUICK_MODEL if rounds.is_quick else MODEL
    train = TrainSpec(batch=BATCH, imgsz=IMGSZ, workers=0, device="cpu", precision="fp32", autoanchor=False)
    with tempfile.TemporaryDirectory() as directory:
        trainer = make_trainer(model, train, Path(directory), num_images=BATCH, image_size=(64, 64))
        trainer.run_directory.create()
        batch, numbers = random_batch(BATCH, IMGSZ), itertools.count()
        steps = partial(_steps, trainer, batch, numbers, num_steps)
        works = [
            Work(f"{num_steps} steps, one with a save", partial(steps, saving=True)),
            Work("save until it is on disk", lambda: _save(trainer, next(numbers))),
            Work("load", lambda: restore(trainer.context.stateful_parts, trainer.checkpointer.read_newest())),
        ]
        with trainer.checkpointer:
            reference = Work(f"{num_steps} steps without a save", partial(steps, saving=False))
            return [measure(f"checkpoint {model}", works, reference, rounds, "wall")]


def timed_step(trainer: Trainer, batch: TrainingBatch, number: int, *, saving: bool) -> None:
    """Run a step with an optimiser step, after the save of the step before where `saving`."""
    trainer.position.step, trainer.context.updater.last_step = number, number - 1
    if saving:
        trainer.checkpointer.save_state()
    trainer.train_step(batch)


def _steps(
    trainer: Trainer, batch: TrainingBatch, numbers: itertools.count[int], num_steps: int, *, saving: bool
) -> None:
    for step in range(num_steps):
        timed_step(trainer, batch, next(numbers), saving=saving and step == 0)


def _save(trainer: Trainer, number: int) -> None:
    trainer.position.step = number
    trainer.checkpointer.save_state()
    trainer.checkpointer.wait()
    written = state_path(trainer.run_directory, trainer.context.attempt, number)
    if not written.exists():  # the checkpointer goes on after an error, as a training does
        raise DataError(
            f"{tempfile.gettempdir()}: a checkpoint cannot be written there; the directory may be full",
            hint="TMPDIR=DIRECTORY hpc-yolo bench checkpoint",
        )
