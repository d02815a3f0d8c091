"""The training loop. One position, `progress.step`, says where training stands; everything else follows from it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hpc_yolo import checkpoint
from hpc_yolo.batches import TrainingBatch
from hpc_yolo.checkpoint import ModelDescription, Progress
from hpc_yolo.data.loader import TrainingLoader, ValidationLoader
from hpc_yolo.data.sampler import scaled_imgsz
from hpc_yolo.distributed import StopAgreement, World
from hpc_yolo.engine.ema import ModelEma
from hpc_yolo.engine.meter import StepMeter
from hpc_yolo.engine.optimizer import Schedule, apply_settings
from hpc_yolo.errors import TrainingError
from hpc_yolo.evaluation.evaluator import evaluate
from hpc_yolo.evaluation.metrics import DetectionMetrics
from hpc_yolo.loss import DetectionLoss
from hpc_yolo.models import Detector
from hpc_yolo.preemption import StopRequest
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, CheckpointSaved, ClassFigures, EpochEnded, Evaluated, StepLogged
from hpc_yolo.runs.journal import JournalWriter
from hpc_yolo.spec.schema import Spec

MAX_GRAD_NORM = 10.0
MAX_LOG_INTERVAL_STEPS = 50
LOGS_AN_EPOCH = 10
SAVE_IS_DUE = 1  # rides on the stop agreement; every stop signal has a higher number


@dataclass
class TrainingParts:
    """All that `build` assembles for one attempt on one rank."""

    spec: Spec
    config: dict[str, Any]  # the rows of `model`
    names: list[str]
    model: Detector
    trained: nn.Module  # `model`, or DistributedDataParallel around it
    ema: ModelEma
    loss: DetectionLoss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    dtype: torch.dtype  # of weights, loss and statistics
    autocast_dtype: torch.dtype | None
    schedule: Schedule
    training: TrainingLoader
    validation: ValidationLoader
    progress: Progress

    @property
    def description(self) -> ModelDescription:
        """What a checkpoint says of the network; the anchors are those that it learns with."""
        anchors = self.model.head.anchors_pixels().flatten(1).tolist()
        return ModelDescription(
            model=self.spec.model,
            config={**self.config, "anchors": anchors},
            names=self.names,
            imgsz=self.spec.train.imgsz,
        )


class Trainer:
    """Runs one attempt from `progress` to the last epoch, an early stop, or a signal."""

    def __init__(
        self,
        parts: TrainingParts,
        world: World,
        run: RunDirectory,
        journal: JournalWriter | None,
        stop: StopRequest,
    ) -> None:
        self.parts = parts
        self.world = world
        self.run_directory = run
        self.journal = journal
        self.stop = stop
        self.agreement = StopAgreement(world)
        self.meter = StepMeter(world)
        self.progress = parts.progress
        self.steps_per_epoch = parts.schedule.steps_per_epoch
        self.log_interval = max(1, min(MAX_LOG_INTERVAL_STEPS, self.steps_per_epoch // LOGS_AN_EPOCH))
        self.grad_norm = torch.zeros((), device=world.device)
        self._saved_s = time.monotonic()

    @property
    def epoch(self) -> int:
        """The epoch under way, from 0; after the last one, their number."""
        return self.progress.finished_epochs

    def run(self) -> int:
        """Train; 0 when finished, else the signal after which all ranks stopped at the same step."""
        while not self.is_over():
            epoch = self.epoch
            if stopped_by := self.train_epoch(epoch):
                return stopped_by
            self.finish_epoch(epoch)
        self.agreement.settle()
        return 0

    def train_epoch(self, epoch: int) -> int:
        """The steps of `epoch` that are still to do; 0, or the signal after which all ranks stop."""
        self.parts.trained.train()
        first_step = self.progress.step - epoch * self.steps_per_epoch
        self.meter.start_epoch(self.progress.epoch_items, first_step)
        for batch in self.timed(self.parts.training.epoch(epoch, first_step, self.progress.class_maps)):
            self.train_step(batch)
            self.progress.step += 1
            if self.progress.step % self.log_interval == 0:
                self.log_step(epoch)
            agreed = self.agreement.ask(self.note())
            if agreed:
                self.save_last()
            if agreed > SAVE_IS_DUE:
                self.agreement.settle()
                return agreed
        return 0

    def finish_epoch(self, epoch: int) -> None:
        """What follows the last step of `epoch`; an attempt that was stopped before it begins here."""
        self.log_epoch(epoch)
        if self.is_evaluated(epoch):
            self.evaluate(epoch)
        self.progress.finished_epochs += 1
        self.meter.start_epoch([0.0, 0.0, 0.0], steps_done=0)
        if self.is_saved(epoch):
            self.save_last()
        self.save_periodically(epoch)

    def train_step(self, batch: TrainingBatch) -> None:
        """Forward, loss and backward on this rank's share of a global batch; every so many batches, the optimiser."""
        parts, device = self.parts, self.world.device
        settings = parts.schedule.at(self.progress.step)
        apply_settings(parts.optimizer, settings)
        updates = self.progress.step - self.progress.last_optimizer_step >= settings.accumulate
        images = self.scaled(batch.images.to(device, non_blocking=True))
        targets = batch.targets.to(device, non_blocking=True)
        with self.gradients_kept_local(not updates):
            with self.autocast():
                predictions = parts.trained(images)
            terms = parts.loss(
                [level.to(parts.dtype) for level in predictions], targets, self.world.sum_over_ranks, self.world.size
            )
            # DDP averages gradients over the ranks; the loss of a global batch is the sum of its ranks' parts.
            parts.scaler.scale(terms.total * self.world.size).backward()
        self.meter.add(terms.items.detach())
        if updates:
            self.update_weights()

    def scaled(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures (share, 3, H, W) in [0, 1]; in multi-scale training of another size, the same on all ranks."""
        parts = self.parts
        pixels = images.to(parts.dtype, memory_format=torch.channels_last) / 255
        if not parts.spec.train.multi_scale:
            return pixels
        train, stride = parts.spec.train, parts.model.picture_stride
        first = self.epoch * self.steps_per_epoch
        longer = scaled_imgsz(train.seed, self.epoch, self.progress.step - first, train.imgsz, stride)
        factor = longer / max(pixels.shape[2:])
        sides = [math.ceil(side * factor / stride) * stride for side in pixels.shape[2:]]
        return nn.functional.interpolate(pixels, size=sides, mode="bilinear", align_corners=False)

    def update_weights(self) -> None:
        """Clip, step, and let the averaged model follow."""
        parts = self.parts
        parts.scaler.unscale_(parts.optimizer)
        self.grad_norm = nn.utils.clip_grad_norm_(parts.model.parameters(), MAX_GRAD_NORM)
        parts.scaler.step(parts.optimizer)
        parts.scaler.update()
        parts.optimizer.zero_grad()
        parts.ema.update(parts.model)
        self.progress.last_optimizer_step = self.progress.step

    def evaluate(self, epoch: int) -> None:
        """The averaged model on this rank's share of the validation pictures; every rank learns all figures."""
        parts = self.parts
        started_s = time.perf_counter()
        # Each rank's running statistics saw its own share; rank 0's are the ones that get saved.
        self.world.broadcast([tensor for tensor in parts.ema.model.buffers() if tensor.is_floating_point()])
        with self.autocast():
            result = evaluate(
                parts.ema.model,
                parts.validation,
                device=self.world.device,
                gather_arrays=self.world.gather_arrays,
            )
        metrics = result.metrics
        self.progress.class_maps = metrics.class_maps(len(parts.names))
        is_best = metrics.fitness > self.progress.best_fitness
        if is_best:
            self.progress.best_fitness, self.progress.best_epoch = metrics.fitness, epoch
            self.save_model(self.run_directory.best, epoch)
        self.tell(
            evaluated(
                metrics,
                parts.names,
                epoch=epoch,
                step=self.progress.step,
                num_images=result.num_images,
                seconds=time.perf_counter() - started_s,
                is_best=is_best,
            )
        )

    def is_evaluated(self, epoch: int) -> bool:
        """Whether an evaluation follows `epoch`; one always follows the last."""
        return comes_round(epoch, self.parts.spec.train.val_every) or epoch + 1 == self.parts.schedule.epochs

    def is_saved(self, epoch: int) -> bool:
        """Whether a checkpoint follows `epoch`; one always follows the last."""
        return comes_round(epoch, self.parts.spec.checkpoint.every_epochs) or self.is_over()

    def is_over(self) -> bool:
        """Whether all epochs are done, or further ones do not pay."""
        return self.epoch >= self.parts.schedule.epochs or self.out_of_patience()

    def out_of_patience(self) -> bool:
        """Whether the last evaluation is `train.patience` epochs or more behind the best one (0: never)."""
        train, best_epoch = self.parts.spec.train, self.progress.best_epoch
        if train.patience == 0 or train.val_every == 0 or best_epoch < 0:
            return False
        last_evaluated = self.epoch // train.val_every * train.val_every - 1
        return last_evaluated - best_epoch >= train.patience

    def note(self) -> int:
        """What this rank has to say after a step: a signal that it got, or (rank 0) that a checkpoint is due."""
        if self.stop.signal_number:
            return self.stop.signal_number
        due = self.parts.spec.checkpoint
        by_time = due.every_s is not None and time.monotonic() - self._saved_s >= due.every_s
        by_steps = due.every_steps is not None and self.progress.step % due.every_steps == 0
        if self.world.is_main and (by_time or by_steps):
            self._saved_s = time.monotonic()
            return SAVE_IS_DUE
        return 0

    def save_last(self) -> None:
        """Make the state after this step durable; called where all ranks stand at the same step."""
        self.progress.epoch_items = self.meter.epoch_sums()
        self.require_finite(self.progress.epoch_items)
        gradients = self.pending_gradients()
        if not self.world.is_main:
            return
        started_s = time.monotonic()
        self.progress.ema_updates = self.parts.ema.updates
        self.progress.scaler = self.parts.scaler.state_dict()
        size_bytes = checkpoint.save_training(
            self.run_directory.last,
            model=self.parts.model,
            ema=self.parts.ema.model,
            optimizer=self.parts.optimizer,
            gradients=gradients,
            progress=self.progress,
            description=self.parts.description,
        )
        self._saved_s = time.monotonic()
        self.tell_saved(self.run_directory.last, self.epoch, size_bytes, self._saved_s - started_s)

    def pending_gradients(self) -> dict[str, torch.Tensor]:
        """What the batches since the last optimiser step have accumulated, averaged over the ranks as DDP would."""
        if self.progress.last_optimizer_step == self.progress.step - 1:
            return {}
        return {
            name: self.world.sum_over_ranks(parameter.grad) / self.world.size
            for name, parameter in self.parts.model.named_parameters()
            if parameter.grad is not None
        }

    def save_periodically(self, epoch: int) -> None:
        """Keep the averaged model of every `train.save_period`-th epoch."""
        if comes_round(epoch, self.parts.spec.train.save_period):
            self.save_model(self.run_directory.checkpoints / f"epoch{epoch}.safetensors", epoch)

    def save_model(self, path: Path, epoch: int) -> None:
        """Rank 0 writes the averaged model alone."""
        if self.world.is_main:
            started_s = time.monotonic()
            size_bytes = checkpoint.save_model(path, self.parts.ema.model, self.parts.description)
            self.tell_saved(path, epoch, size_bytes, time.monotonic() - started_s)

    def log_step(self, epoch: int) -> None:
        items, step_s, figures = self.meter.read_log()
        self.require_finite(items)
        self.tell(
            StepLogged(
                epoch=epoch,
                step=self.progress.step,
                box=items[0],
                obj=items[1],
                cls=items[2],
                grad_norm=float(self.grad_norm),
                lr=self.parts.schedule.at(self.progress.step - 1).lr,
                images_per_s=self.parts.schedule.batch / step_s,
                rank_step_s=[row[0] for row in figures],
                rank_data_wait_s=[row[1] for row in figures],
                rank_mem_bytes=[int(row[2]) for row in figures],
            )
        )

    def log_epoch(self, epoch: int) -> None:
        items, num_steps, seconds = self.meter.read_epoch()
        self.tell(
            EpochEnded(
                epoch=epoch,
                step=self.progress.step,
                box=items[0],
                obj=items[1],
                cls=items[2],
                lr=self.parts.schedule.at(self.progress.step - 1).lr,
                images_per_s=num_steps * self.parts.schedule.batch / seconds,
                seconds=seconds,
            )
        )

    def require_finite(self, items: list[float]) -> None:
        """Stop before numbers gone bad reach a checkpoint; every rank sees the same `items` and does the same."""
        if not all(math.isfinite(item) for item in items):
            raise TrainingError(
                f"the loss is not finite at step {self.progress.step} (epoch {self.epoch}): box, obj, cls = {items}; "
                f"the checkpoint before it stays in {self.run_directory.last}",
                hint="lower train.hyp_overrides.lr0, or set train.precision to fp32",
            )

    def tell(self, event: AnyEvent) -> None:
        """Rank 0 writes `event` into the journal."""
        if self.journal is not None:
            self.journal.write(event)

    def tell_saved(self, path: Path, epoch: int, size_bytes: int, seconds: float) -> None:
        relative = str(path.relative_to(self.run_directory.path))
        self.tell(
            CheckpointSaved(epoch=epoch, step=self.progress.step, path=relative, size_bytes=size_bytes, seconds=seconds)
        )

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision where the device has it."""
        dtype = self.parts.autocast_dtype
        return contextlib.nullcontext() if dtype is None else torch.autocast(self.world.device.type, dtype)

    def gradients_kept_local(self, kept: bool) -> AbstractContextManager[object]:
        """Between optimiser steps gradients stay on their rank: the last backward pass sums them over all."""
        trained = self.parts.trained
        if kept and isinstance(trained, DistributedDataParallel):
            return trained.no_sync()
        return contextlib.nullcontext()

    def timed(self, batches: Iterator[TrainingBatch]) -> Iterator[TrainingBatch]:
        """`batches`, with the time spent waiting for each told to the meter."""
        while True:
            started_s = time.perf_counter()
            batch = next(batches, None)
            self.meter.waited_for_data(time.perf_counter() - started_s)
            if batch is None:
                return
            yield batch


def comes_round(epoch: int, period: int) -> bool:
    """Whether `epoch`, from 0, ends a period of so many epochs; never for 0 and less."""
    return period > 0 and (epoch + 1) % period == 0


def evaluated(
    metrics: DetectionMetrics,
    names: list[str],
    *,
    epoch: int,
    step: int,
    num_images: int,
    seconds: float,
    is_best: bool,
) -> Evaluated:
    """The event that tells of an evaluation."""
    return Evaluated(
        epoch=epoch,
        step=step,
        num_images=num_images,
        precision=metrics.precision,
        recall=metrics.recall,
        map50=metrics.map50,
        map50_95=metrics.map50_95,
        images_per_s=num_images / seconds,
        seconds=seconds,
        is_best=is_best,
        classes=[
            ClassFigures(
                name=names[row.class_index],
                num_labels=row.num_labels,
                precision=row.precision,
                recall=row.recall,
                map50=row.ap50,
                map50_95=row.ap50_95,
            )
            for row in metrics.per_class
        ],
    )
