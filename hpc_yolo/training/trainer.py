"""The training loop. One position, `progress.step`, says where training stands; everything else follows from it."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn

from hpc_yolo.checkpoint import Progress
from hpc_yolo.core.errors import TrainingError
from hpc_yolo.data.batch import TrainingBatch, ValidationBatch
from hpc_yolo.data.sampler import scaled_imgsz
from hpc_yolo.distributed import StepRequest, StopAgreement, World
from hpc_yolo.evaluation.evaluator import evaluate
from hpc_yolo.resilience.stop_signal import StopRequest
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, TrainingLeft, WarningRaised
from hpc_yolo.runs.journal import JournalWriter
from hpc_yolo.training.checkpointer import Checkpointer
from hpc_yolo.training.context import TrainingParts
from hpc_yolo.training.final_evaluation import FinalEvaluation, make_results
from hpc_yolo.training.meter import StepMeter
from hpc_yolo.training.nan_guard import MAX_BAD_STEPS, BadStep, FiniteWatch, Statistics
from hpc_yolo.training.optimizer import apply_settings
from hpc_yolo.training.resume import read_newest_state
from hpc_yolo.training.step_events import epoch_ended, evaluated, images_of_a_share, step_logged
from hpc_yolo.training.watchdog.watchdog import Watchdog

MAX_GRAD_NORM = 10.0
MAX_LOG_INTERVAL_STEPS = 50
LOGS_AN_EPOCH = 10
SLOW_PHASE_S = 600.0  # for what one rank does while the others wait, and for a disk that is slow now and then


class Stopped(Exception):
    """All ranks leave an evaluation at the same batch, because of this signal."""

    def __init__(self, stop_signal: signal.Signals) -> None:
        super().__init__(stop_signal)
        self.stop_signal = stop_signal


class RolledBack(Exception):
    """All ranks go back to the newest checkpoint, and will pass over the step they are at."""


class Trainer:
    """Runs one attempt from `progress` to the last epoch, an early stop, or a signal."""

    def __init__(
        self,
        parts: TrainingParts,
        world: World,
        run: RunDirectory,
        journal: JournalWriter | None,
        stop: StopRequest,
        before_publish: Callable[[], None] = lambda: None,
        watchdog: Watchdog | None = None,
    ) -> None:
        """
        Args:
            before_publish: called before a checkpoint gets its name; what it raises ends the attempt.
        """
        self.parts = parts
        self.world = world
        self.run_directory = run
        self.journal = journal
        self.stop = stop
        self.watchdog = watchdog or Watchdog(world, run, 0)
        self.checkpointer = Checkpointer(parts, run, self.tell, before_publish)
        self.agreement = StopAgreement(world)
        self.meter = StepMeter(world, parts.model, parts.loss.names)
        self.finite = FiniteWatch(world)
        self.rejects = parts.spec.train.on_nonfinite != "stop"
        self.statistics = Statistics(parts.model) if self.rejects else None
        self.steps_per_epoch = parts.schedule.steps_per_epoch
        self.log_interval = max(1, min(MAX_LOG_INTERVAL_STEPS, self.steps_per_epoch // LOGS_AN_EPOCH))
        self.grad_norm = torch.tensor(parts.progress.grad_norm, device=world.device)
        self.resume_epoch()

    @property
    def progress(self) -> Progress:
        """Where training stands."""
        return self.parts.progress

    @property
    def epoch(self) -> int:
        """The epoch under way, from 0; after the last one, their number."""
        return self.progress.finished_epochs

    def run(self) -> signal.Signals | None:
        """Train; return None when finished, else the signal after which all ranks stopped at the same step."""
        with self.checkpointer, self.watchdog:
            if self.progress.step == 0 and self.parts.spec.train.on_nonfinite == "rollback":
                self.save_state()
            stopped_by, has_begun = None, not self.is_over()
            while not self.is_over() and stopped_by is None:
                try:
                    stopped_by = self.train_epoch(self.epoch) or self.finish_epoch(self.epoch)
                except RolledBack:
                    self.roll_back()
            self.agreement.settle()
            if has_begun:
                self.tell(TrainingLeft(epoch=self.epoch, step=self.progress.step, signal=stopped_by))
            self.beat("saving", SLOW_PHASE_S)
            self.checkpointer.finish()
            if stopped_by is None:
                self.make_results()
        return stopped_by

    def train_epoch(self, epoch: int) -> signal.Signals | None:
        """Train the steps of `epoch` that are still to do; return the signal after which all ranks stop, if any."""
        self.parts.trained.train()
        first_step = self.progress.step - epoch * self.steps_per_epoch
        for batch in self.timed(self.parts.training.epoch(epoch, first_step, self.progress.class_maps)):
            self.beat("step")
            self.train_step(batch)
            self.progress.step += 1
            if self.progress.step % self.log_interval == 0:
                self.log_step(epoch)
            agreed = self.agreement.ask(self.request())
            if agreed.is_save_due or agreed.stop_signal is not None:
                self.save_state()
            if agreed.stop_signal is not None:
                if self.progress.step == (epoch + 1) * self.steps_per_epoch:
                    self.log_epoch(epoch)
                return agreed.stop_signal
        return None

    def finish_epoch(self, epoch: int) -> signal.Signals | None:
        """Evaluate and save after the last step of `epoch`; return the signal that came meanwhile, if any.

        The next attempt then begins here.
        """
        if self.meter.num_steps_here:  # else the attempt that did the last step has logged it
            self.log_epoch(epoch)
        if self.is_evaluated(epoch):
            try:
                self.evaluate(epoch)
            except Stopped as stopped:
                self.save_state()
                return stopped.stop_signal
        self.progress.finished_epochs += 1
        self.progress.rank_items = []
        self.resume_epoch()
        self.beat("saving", SLOW_PHASE_S)
        if self.is_saved(epoch):
            self.save_state()
        if comes_round(epoch, self.parts.spec.train.save_period) and self.world.is_main:
            self.checkpointer.save_model(self.run_directory.checkpoints / f"epoch{epoch}.safetensors", epoch)
        return None

    def train_step(self, batch: TrainingBatch) -> None:
        """Forward, loss and backward on this rank's share of a global batch; every so many batches, the optimiser."""
        parts, device, step = self.parts, self.world.device, self.progress.step
        if step in self.progress.bad_steps:
            self.meter.add(None)
            return
        settings = parts.schedule.at(step)
        apply_settings(parts.optimizer, settings)
        updates = step - self.progress.last_optimizer_step >= settings.accumulate
        images = self.scaled(batch.images.to(device, non_blocking=True))
        targets = batch.targets.to(device, non_blocking=True)
        with parts.autocast(device):
            predictions = parts.trained(images)
        terms = parts.loss(
            [level.to(parts.dtype) for level in predictions], targets, self.world.sum_over_ranks, self.world.size
        )
        # DDP averages gradients over the ranks; the loss of a global batch is the sum of its ranks' parts. It averages
        # at every step, also between optimiser steps: what has gathered is then the same on all ranks, bit by bit.
        parts.scaler.scale(terms.total * self.world.size).backward()
        items: torch.Tensor | None = terms.items.detach()
        self.finite.note(step, terms.items.detach())
        if updates:
            self.clip_gradients()
        if self.rejects and (bad := self.finite.first_bad()):
            self.reject(bad)
            items = None
        elif updates:
            self.update_weights()
        self.meter.add(items)

    def scaled(self, images: torch.Tensor) -> torch.Tensor:
        """Images (share, 3, H, W) in [0, 1]; in multi-scale training of another size, the same on all ranks."""
        parts = self.parts
        pixels = images.to(parts.dtype, memory_format=torch.channels_last) / 255
        if not parts.spec.train.multi_scale:
            return pixels
        train, stride = parts.spec.train, parts.model.image_stride
        first = self.epoch * self.steps_per_epoch
        longer = scaled_imgsz(train.seed, self.epoch, self.progress.step - first, train.imgsz, stride)
        factor = longer / max(pixels.shape[2:])
        sides = [math.ceil(side * factor / stride) * stride for side in pixels.shape[2:]]
        return nn.functional.interpolate(pixels, size=sides, mode="bilinear", align_corners=False)

    def clip_gradients(self) -> None:
        """Hold the gradients' norm down. With a scaler it may be infinite: the scaler then takes a smaller scale."""
        self.parts.scaler.unscale_(self.parts.optimizer)
        self.grad_norm = nn.utils.clip_grad_norm_(self.parts.model.parameters(), MAX_GRAD_NORM)
        if not self.parts.scaler.is_enabled():
            self.finite.note(self.progress.step, self.grad_norm)

    def update_weights(self) -> None:
        """Step, and let the averaged model follow, once a checkpoint under way has copied both."""
        parts = self.parts
        self.checkpointer.wait_copied()
        parts.scaler.step(parts.optimizer)
        parts.scaler.update()
        parts.optimizer.zero_grad()
        parts.ema.update(parts.model)
        self.progress.last_optimizer_step = self.progress.step
        if self.statistics is not None:
            self.statistics.keep()

    def reject(self, bad: BadStep) -> None:
        """Numbers gone bad must not reach the weights: drop the gradients, or go back to the last checkpoint."""
        self.progress.bad_steps.append(self.progress.step)
        self.finite.forget()
        if sum(step >= self.epoch * self.steps_per_epoch for step in self.progress.bad_steps) > MAX_BAD_STEPS:
            raise TrainingError(f"{self.words_of(bad)}; it is one of more than {MAX_BAD_STEPS} in this epoch")
        rolls_back = self.parts.spec.train.on_nonfinite == "rollback"
        done = "going back to the last checkpoint, to pass over it" if rolls_back else "its gradients are dropped"
        self.tell(WarningRaised(message=f"{self.words_of(bad)}; {done}"))
        if rolls_back:
            raise RolledBack
        assert self.statistics is not None
        self.statistics.put_back()
        self.parts.optimizer.zero_grad()

    def roll_back(self) -> None:
        """Go on from the newest checkpoint, with the bad steps that were found since."""
        bad_steps = self.progress.bad_steps
        self.beat("going back", SLOW_PHASE_S)
        self.checkpointer.wait()
        state = read_newest_state(self.run_directory, self.world, self.tell)
        assert state is not None, "one was saved before the first step"
        self.parts.restore(state)
        self.progress.bad_steps = bad_steps
        self.resume_epoch()

    def require_finite(self) -> None:
        """Stop before numbers gone bad reach a checkpoint; every rank sees the same and does the same.

        Raises:
            TrainingError: naming the step and the images.
        """
        if bad := self.finite.first_bad():
            raise TrainingError(
                f"{self.words_of(bad)}; the checkpoints before it stay in {self.run_directory.checkpoints}",
                hint="set train.on_nonfinite to skip or rollback, lower train.hyp_overrides.lr0, or use precision fp32",
            )

    def words_of(self, bad: BadStep) -> str:
        """The step and the rank, and that rank's images."""
        epoch, step = divmod(bad.step, self.steps_per_epoch)
        share = self.parts.training.image_paths(epoch, step, bad.rank, self.progress.class_maps)
        return (
            f"loss or gradients are not finite at step {bad.step} (epoch {epoch + 1}), first on rank {bad.rank} "
            f"with {images_of_a_share(share)}"
        )

    def make_results(self) -> None:
        """Curves and images of the best model; a signal that comes meanwhile only ends that."""
        with contextlib.suppress(Stopped):
            make_results(FinalEvaluation(self.parts, self.world, self.run_directory, self.stoppable, self.tell))
        self.agreement.settle()

    def evaluate(self, epoch: int) -> None:
        """The averaged model on this rank's share of the validation images; every rank learns all figures.

        Raises:
            Stopped: a signal came meanwhile, on whatever rank. Nothing has changed then.
        """
        parts = self.parts
        started_s = time.perf_counter()
        # Each rank's running statistics saw its own share; rank 0's are the ones that get saved.
        self.world.broadcast([tensor for tensor in parts.ema.model.buffers() if tensor.is_floating_point()])
        with parts.autocast(self.world.device):
            result = evaluate(
                parts.ema.model,
                self.stoppable(parts.validation.slots()),
                device=self.world.device,
                gather_arrays=self.world.gather_arrays,
            )
        metrics = result.metrics
        self.progress.class_maps = metrics.class_maps(len(parts.names))
        is_best = metrics.mean.fitness > self.progress.best_fitness
        if is_best:
            self.progress.best_fitness, self.progress.best_epoch = metrics.mean.fitness, epoch
            if self.world.is_main:
                self.checkpointer.save_model(self.run_directory.best, epoch)
        seconds = time.perf_counter() - started_s
        self.tell(evaluated(result, parts.names, epoch, self.progress.step, seconds, is_best=is_best))

    def stoppable(self, batches: Iterator[ValidationBatch | None]) -> Iterator[ValidationBatch]:
        """`batches` without the empty slots, until a signal on any rank; ranks have equally many slots."""
        for batch in batches:
            self.beat("evaluation")
            agreed = self.agreement.ask(StepRequest(self.stop.stop_signal))
            if agreed.stop_signal is not None:
                raise Stopped(agreed.stop_signal)
            if batch is not None:
                yield batch
        self.beat("metrics", SLOW_PHASE_S)

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

    def request(self) -> StepRequest:
        """Return this rank's request after a step: the signal it received, and on rank 0 a checkpoint that is due."""
        if self.world.is_main:
            self.checkpointer.report()
        return StepRequest(self.stop.stop_signal, self.world.is_main and self.checkpointer.is_due)

    def save_state(self) -> None:
        """Begin to save the state after this step; called where all ranks stand at the same step."""
        self.beat("saving", SLOW_PHASE_S)
        self.require_finite()
        self.progress.rank_items = self.meter.rank_sums()
        self.progress.grad_norm = float(self.grad_norm)
        if self.world.is_main:
            self.checkpointer.save_state(self.pending_gradients())

    def resume_epoch(self) -> None:
        """Set the meter to where `progress` stands in its epoch."""
        epoch_steps = self.progress.step - self.epoch * self.steps_per_epoch
        log_steps = min(self.progress.step % self.log_interval, epoch_steps)
        self.meter.resume_epoch(self.progress.rank_items, epoch_steps, log_steps)

    def pending_gradients(self) -> dict[str, torch.Tensor]:
        """What the batches since the last optimiser step have gathered."""
        return {
            name: parameter.grad
            for name, parameter in self.parts.model.named_parameters()
            if parameter.grad is not None
        }

    def log_step(self, epoch: int) -> None:
        """Means over the steps since the last line."""
        if not self.rejects:
            self.require_finite()
        lr = self.parts.schedule.at(self.progress.step - 1).lr
        self.tell(step_logged(self.meter, epoch, self.progress.step, self.parts.schedule.batch, lr, self.grad_norm))

    def log_epoch(self, epoch: int) -> None:
        """Means over the epoch."""
        lr = self.parts.schedule.at(self.progress.step - 1).lr
        self.tell(epoch_ended(self.meter, epoch, self.progress.step, self.parts.schedule.batch, lr))

    def beat(self, phase: str, allowed_s: float = 0.0) -> None:
        """Tell the watchdog where the loop is; all ranks pass here alike."""
        self.watchdog.beat(phase, self.progress.step, allowed_s)

    def tell(self, event: AnyEvent) -> None:
        """Rank 0 writes `event` into the journal."""
        if self.journal is not None:
            self.journal.write(event)

    def timed(self, batches: Iterator[TrainingBatch]) -> Iterator[TrainingBatch]:
        """`batches`, with the time spent waiting for each told to the meter."""
        while True:
            started_s = time.perf_counter()
            self.beat("waiting for data")
            batch = next(batches, None)
            self.meter.waited_for_data(time.perf_counter() - started_s)
            if batch is None:
                return
            yield batch


def comes_round(epoch: int, period: int) -> bool:
    """Whether `epoch`, from 0, ends a period of so many epochs; never for 0 and less."""
    return period > 0 and (epoch + 1) % period == 0
