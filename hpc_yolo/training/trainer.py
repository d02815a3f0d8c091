"""The training loop. One integer, `context.position.step`, is the position of training; the rest follows from it.

What each step does is in `backward`, `nan_guard` and `updater`; when something is due, in `cadence`; what a checkpoint
holds, in `context`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from signal import Signals

from torch import nn

from hpc_yolo.checkpoint import restore
from hpc_yolo.data.batch import ValidationBatch
from hpc_yolo.data.undrawn import AnyTrainingBatch
from hpc_yolo.distributed import StepRequest, StopAgreement, World
from hpc_yolo.resilience.stop_signal import StopRequest
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, TrainingLeft
from hpc_yolo.runs.journal import JournalWriter
from hpc_yolo.training.aside import AsideEvaluations
from hpc_yolo.training.backward import add_gradients
from hpc_yolo.training.cadence import cadence_of
from hpc_yolo.training.checkpointer import Checkpointer
from hpc_yolo.training.context import TrainingContext
from hpc_yolo.training.evaluation import evaluate_average
from hpc_yolo.training.final_evaluation import FinalEvaluation, write_results
from hpc_yolo.training.nan_guard import RolledBack
from hpc_yolo.training.optimizer import apply_settings
from hpc_yolo.training.phases import Phases
from hpc_yolo.training.replaced_images import ReplacedImages
from hpc_yolo.training.step_events import epoch_ended, evaluated, step_logged
from hpc_yolo.training.stop_rule import StopRule
from hpc_yolo.training.watchdog import Watchdog

STEPS_AHEAD = 4  # before the end of an epoch, at which the loader of its evaluation begins


class Stopped(Exception):
    """Raised on all ranks to leave an evaluation at the same batch, because of this signal."""

    def __init__(self, stop_signal: Signals) -> None:
        super().__init__(stop_signal)
        self.stop_signal = stop_signal


class Trainer:
    """Runs one attempt from its context's position to the last epoch, an early stop, or a signal."""

    def __init__(
        self,
        context: TrainingContext,
        world: World,
        run: RunDirectory,
        journal: JournalWriter | None,
        stop: StopRequest,
        before_publish: Callable[[], None] = lambda: None,
        watchdog: Watchdog | None = None,
    ) -> None:
        """Initialize the trainer.

        Args:
            journal: rank 0's.
            before_publish: called before a checkpoint gets its name; an error that it raises ends the attempt.
        """
        self.context = context
        self.position = context.position
        self.world = world
        self.run_directory = run
        self.stop = stop
        self.watchdog = watchdog or Watchdog(world, run, 0)
        self.emit: Callable[[AnyEvent], None] = (lambda _event: None) if journal is None else journal.write
        self.cadence = cadence_of(context.train, context.checkpoint, context.schedule.steps_per_epoch)
        self.phases = Phases(self.watchdog, self.position)
        self.checkpointer = Checkpointer(context, world, run, self.phases, self.emit, before_publish)
        self.aside = AsideEvaluations(context, world, run, self.checkpointer, self.emit, before_publish)
        self.stop_rule = StopRule(context, world, run, self.phases, self.emit)
        self.agreement = StopAgreement(world)
        self.is_save_due = False  # requested at the last step of an epoch, and agreed on in its evaluation
        self.replaced = {
            split: ReplacedImages(split, loader.index, world, self.emit)
            for split, loader in (("train", context.training), ("val", context.validation))
        }

    @property
    def epoch(self) -> int:
        """The epoch under way, from 0; after the last one, their number."""
        return self.position.finished_epochs

    @property
    def is_over(self) -> bool:
        """True if all epochs are done, further ones do not improve the model, or the rule of a sweep ends the trial."""
        evaluations = self.context.evaluations
        if evaluations.stopped_of_epochs == self.cadence.epochs:
            return True
        return self.cadence.is_over(self.epoch, evaluations.best_epoch, evaluations.waiting)

    def run(self) -> Signals | None:
        """Train; return None when finished, else the signal after which all ranks stopped at the same step."""
        stopped_by, has_begun = None, not self.is_over
        with self.checkpointer, self.watchdog:
            self.context.meter.start_clock()
            if self.position.step == 0 and self.context.nan_guard.rolls_back:
                self.checkpointer.save_state()
            while stopped_by is None and not self.is_over:
                try:
                    stopped_by = self.train_epoch() or self.finish_epoch()
                except RolledBack:
                    restore(self.context.stateful_parts, self.checkpointer.read_newest())
            stopped_by = stopped_by or self.evaluate_rest()
            self.agreement.settle()
            if has_begun:
                self.emit(TrainingLeft(epoch=self.epoch, step=self.position.step, signal=stopped_by))
            self.checkpointer.finish()
            if stopped_by is None:
                self.write_results()
        return stopped_by

    def train_epoch(self) -> Signals | None:
        """Train the steps of the epoch that are still to do; return the signal after which all ranks stop, if any."""
        self.context.trained.train()
        for batch in self.batches():
            self.replaced["train"].add(batch.replaced)
            self.train_step(batch)
            self.position.step += 1
            self.begin_evaluation()
            if self.cadence.logs_after(self.position.step):
                self.log_step()
            agreed = self.agreement.ask(self.request())
            if agreed.is_save_due or agreed.stop_signal is not None:
                self.checkpointer.save_state()
            if agreed.stop_signal is not None:
                if self.position.step % self.cadence.steps_per_epoch == 0:
                    self.log_epoch()
                return agreed.stop_signal
        return None

    def train_step(self, batch: AnyTrainingBatch) -> None:
        """Run forward, loss and backward on this rank's shard of a batch; after accumulation, step the optimiser."""
        context, guard, updater, step = self.context, self.context.nan_guard, self.context.updater, self.position.step
        if step in guard.bad_steps:
            context.meter.add(None)
            return
        settings = context.schedule.at(step)
        apply_settings(updater.optimizer, settings)
        items = add_gradients(context, self.world, batch, step)
        guard.observe(step, items)
        updates = step - updater.last_step >= settings.accumulate
        if updates:
            grad_norm = updater.clip()
            if not updater.scaler.is_enabled():  # else it may be infinite: the scaler then lowers its scale
                guard.observe(step, grad_norm)
        is_rejected = guard.rejects(step)
        if is_rejected:
            updater.optimizer.zero_grad()
        elif updates:
            self.checkpointer.wait_copied()
            updater.update(step)
            guard.accept()
        context.meter.add(None if is_rejected else items)

    def begin_evaluation(self) -> None:
        """Let loader workers begin with the images of an evaluation a few steps before it."""
        context, steps_per_epoch = self.context, self.cadence.steps_per_epoch
        left = (self.epoch + 1) * steps_per_epoch - self.position.step
        is_due = left <= STEPS_AHEAD and self.cadence.evaluates_after(self.epoch) and not context.evaluates_aside
        if is_due:
            context.validation.begin()

    def finish_epoch(self) -> Signals | None:
        """Log, evaluate and save after the last step; return the signal that was received meanwhile, if any.

        The next attempt then resumes here.
        """
        epoch, meter = self.epoch, self.context.meter
        if meter.num_steps_here:  # else the attempt that did the last step has logged it
            self.log_epoch()
        self.aside.take_in()
        if self.cadence.evaluates_after(epoch) and not self.aside.hands_over(epoch):
            try:
                self.evaluate_waiting()
                self.evaluate(self.context.ema.model, epoch)
            except Stopped as stopped:
                self.checkpointer.save_state()
                return stopped.stop_signal
        self.stop_rule.apply(epoch)
        self.position.finished_epochs += 1
        meter.start_epoch()
        if self.cadence.saves_state_after(epoch) or self.is_save_due or self.is_over:
            self.checkpointer.save_state()
        self.is_save_due = False
        if self.cadence.saves_model_after(epoch):
            self.checkpointer.save_model(self.run_directory.checkpoints / f"epoch{epoch}.safetensors", epoch)
        return None

    def batches(self) -> Iterator[AnyTrainingBatch]:
        """Return this rank's batches of the epoch that are still to do."""
        context = self.context
        first_step = self.position.step - self.epoch * self.cadence.steps_per_epoch
        batches = context.training.epoch(self.epoch, first_step, context.evaluations.class_maps)
        return self.phases.training(
            batches, on_wait=lambda wait_s: context.meter.waited_for_data(wait_s, context.training.num_ready)
        )

    def evaluate(self, model: nn.Module, epoch: int) -> None:
        """Evaluate the averaged `model` of `epoch`, and keep it if it is the best so far.

        Raises:
            Stopped: any rank received a signal; nothing has changed then.
        """
        context, started_s = self.context, time.perf_counter()
        batches = self.stoppable(context.validation.slots())
        index, autocast = context.validation.index, context.autocast(self.world.device)
        result = evaluate_average(model, batches, index, autocast, self.world)
        self.replaced["val"].report(self.position.step)
        is_best = context.evaluations.add(result.metrics, epoch, len(context.names))
        if epoch in self.aside.waiting:
            self.aside.settle(epoch, is_best=is_best)
        elif is_best:
            self.checkpointer.save_model(self.run_directory.best, epoch)
        seconds, step = time.perf_counter() - started_s, (epoch + 1) * self.cadence.steps_per_epoch
        self.emit(evaluated(result, context.names, epoch, step, seconds, is_best=is_best))

    def evaluate_waiting(self) -> None:
        """Evaluate the models that wait for another job.

        Raises:
            Stopped: any rank received a signal; the models that are not evaluated still wait.
        """
        for epoch, model in self.aside.models():
            self.evaluate(model, epoch)

    def evaluate_rest(self) -> Signals | None:
        """After training, evaluate what still waits; return the signal that was received meanwhile, if any."""
        self.aside.take_in()
        if self.aside.waiting:
            try:
                self.evaluate_waiting()
            except Stopped as stopped:
                return stopped.stop_signal
            finally:
                self.checkpointer.save_state()
        self.aside.remove_models()
        return None

    def write_results(self) -> None:
        """Draw curves and images of the best model; a signal stops only that."""
        with contextlib.suppress(Stopped):
            write_results(FinalEvaluation(self.context, self.world, self.run_directory, self.stoppable, self.emit))
        self.agreement.settle()

    def stoppable(self, batches: Iterator[ValidationBatch | None]) -> Iterator[ValidationBatch]:
        """Yield `batches` without the empty slots, of which all ranks have equally many.

        Raises:
            Stopped: any rank received a signal.
        """
        for batch in self.phases.evaluation(batches):
            agreed = self.agreement.ask(StepRequest(self.stop.stop_signal))
            self.is_save_due |= agreed.is_save_due
            if agreed.stop_signal is not None:
                raise Stopped(agreed.stop_signal)
            if batch is not None:
                self.replaced["val"].add(batch.replaced)
                yield batch

    def request(self) -> StepRequest:
        """Return this rank's request after a step: the signal it received, and on rank 0 a checkpoint that is due."""
        if self.world.is_main:
            self.checkpointer.report()
        return StepRequest(self.stop.stop_signal, self.checkpointer.is_due)

    def log_step(self) -> None:
        """Emit the means over the steps since the last log line."""
        self.context.nan_guard.require_finite_log()
        self.emit(step_logged(self.context, self.position.step))
        self.replaced["train"].report(self.position.step)

    def log_epoch(self) -> None:
        """Emit the means over the epoch."""
        self.emit(epoch_ended(self.context, self.position.step))
        self.replaced["train"].report(self.position.step)
