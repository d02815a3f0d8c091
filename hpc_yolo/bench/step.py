"""Benchmarks `step` and `loss`: a training step, and the loss in it, over forward and backward of the bare model.

The step: images to float, forward, loss, backward, gradient clipping, optimiser and weight average, as the trainer does
them. The bare model: forward and backward of the same model in plain torch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hpc_yolo.bench.records import BenchResult
from hpc_yolo.bench.rounds import Clock, Rounds, Work, measure
from hpc_yolo.bench.threads import one_thread
from hpc_yolo.bench.trainer import bare_step, loss_alone, make_trainer, random_batch, step_parts, whole_step
from hpc_yolo.spec.train import TrainSpec

MODELS = ("yolov5n", "yolov5s")
BATCH, IMGSZ, LOSS_IMGSZ = 8, 320, 640
LOSSES = 2  # of a round


def bench_step(rounds: Rounds, models: Sequence[str] = MODELS, *, device: str = "cpu") -> list[BenchResult]:
    """Return times of whole steps of 8 images of 320 px: on a CPU in fp32, on a GPU in mixed precision.

    Args:
        rounds: how often; quick ones time the first model alone.
        models: their names.
        device: as in train.device.
    """
    chosen = models[:1] if rounds.is_quick and models == MODELS else models
    return [_steps_of(name, rounds, device) for name in chosen]


def _steps_of(name: str, rounds: Rounds, device: str) -> BenchResult:
    with tempfile.TemporaryDirectory() as directory, one_thread():
        trainer = make_trainer(name, _train(device, IMGSZ), Path(directory), num_images=BATCH, image_size=(64, 64))
        at = trainer.world.device
        batch, images = random_batch(BATCH, IMGSZ), torch.rand(BATCH, 3, IMGSZ, IMGSZ).to(at)
        if at.type == "cuda":
            batch, images = batch.pin_memory(), images.to(memory_format=torch.channels_last)
        mixed = torch.bfloat16 if at.type == "cuda" else None
        works = [
            Work("whole step", _finished(lambda: whole_step(trainer, batch), at), BATCH, "image"),
            *(Work(part, _finished(run, at), BATCH, "image") for part, run in step_parts(trainer, batch).items()),
        ]
        reference = Work("forward and backward in plain torch", _finished(bare_step(name, images, mixed), at))
        return measure(f"step {name}", works, reference, rounds, _clock(at))


def bench_loss(rounds: Rounds, *, device: str = "cpu") -> list[BenchResult]:
    """Return times of the loss of 8 images of 640 px, forward and backward, over a sigmoid and its cross entropy."""
    with tempfile.TemporaryDirectory() as directory, one_thread():
        train = _train(device, LOSS_IMGSZ)
        trainer = make_trainer("yolov5n", train, Path(directory), num_images=BATCH, image_size=(64, 64))
        at, batch = trainer.world.device, random_batch(BATCH, LOSS_IMGSZ)
        loss = loss_alone(trainer, batch)
        raw = torch.rand(BATCH, 25_200, 85, device=at, requires_grad=True)

        def entropy() -> None:
            value = torch.nn.functional.binary_cross_entropy_with_logits(raw, torch.zeros_like(raw))
            torch.autograd.backward(value)

        reference = Work("cross entropy of 8 x 25,200 x 85 values", _finished(entropy, at))
        work = Work("loss", _finished(lambda: [loss() for _ in range(LOSSES)], at), LOSSES)
        return [measure("loss", [work], reference, rounds, _clock(at))]


def _train(device: str, imgsz: int) -> TrainSpec:
    return TrainSpec(
        batch=BATCH,
        imgsz=imgsz,
        workers=0,
        device=device,
        precision="fp32" if device == "cpu" else "auto",
        deterministic=False,
        autoanchor=False,
    )


def _clock(device: torch.device) -> Clock:
    return "wall" if device.type == "cuda" else "cpu"


def _finished(run: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Return `run`, followed by a wait for the GPU."""

    def finish() -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return finish
