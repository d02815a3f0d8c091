"""The steps at which a run logs, evaluates, saves and ends: functions of the position, the same on all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpc_yolo.spec.checkpoint import CheckpointSpec
from hpc_yolo.spec.train import TrainSpec

MAX_LOG_STEPS = 50
LOGS_PER_EPOCH = 10


@dataclass(frozen=True)
class Cadence:
    """Periods of a run. Epochs count from 0; a period of 0 means never.

    Attributes:
        patience: epochs without a better evaluation after which training ends.
        model_every_epochs: the period of files with the averaged model alone.
    """

    epochs: int
    steps_per_epoch: int
    val_every: int
    patience: int
    state_every_epochs: int
    model_every_epochs: int
    log_every_steps: int

    def logs_after(self, num_steps: int) -> bool:
        """Return whether a log line follows after `num_steps` steps."""
        return num_steps % self.log_every_steps == 0

    def evaluates_after(self, epoch: int) -> bool:
        """Return whether an evaluation follows `epoch`; one always follows the last."""
        return ends_period(epoch, self.val_every) or epoch + 1 == self.epochs

    def saves_state_after(self, epoch: int) -> bool:
        """Return whether `epoch` ends a period of checkpoints; one always follows the end of training."""
        return ends_period(epoch, self.state_every_epochs)

    def saves_model_after(self, epoch: int) -> bool:
        """Return whether the averaged model is kept in a file after `epoch`."""
        return ends_period(epoch, self.model_every_epochs)

    def is_over(self, finished_epochs: int, best_epoch: int, waiting: Sequence[int] = ()) -> bool:
        """Return whether all epochs are done, or the last evaluation is `patience` epochs behind the best one.

        Args:
            finished_epochs: number of epochs that are done.
            best_epoch: of the best evaluation; -1 before the first one.
            waiting: epochs whose results are not known yet; only those before the first of them count.
        """
        if finished_epochs >= self.epochs:
            return True
        if self.patience == 0 or self.val_every == 0 or best_epoch < 0:
            return False
        finished_epochs = min((finished_epochs, *waiting))
        last_evaluated = finished_epochs // self.val_every * self.val_every - 1
        return last_evaluated - best_epoch >= self.patience


def cadence_of(train: TrainSpec, checkpoint: CheckpointSpec, steps_per_epoch: int) -> Cadence:
    """Return the periods that a spec asks for."""
    usual = max(1, min(MAX_LOG_STEPS, steps_per_epoch // LOGS_PER_EPOCH))
    return Cadence(
        epochs=train.epochs,
        steps_per_epoch=steps_per_epoch,
        val_every=train.val_every,
        patience=train.patience,
        state_every_epochs=checkpoint.every_epochs,
        model_every_epochs=train.save_period,
        log_every_steps=usual if isinstance(train.log_every_steps, str) else train.log_every_steps,
    )


def ends_period(epoch: int, period: int) -> bool:
    """Return whether `epoch`, from 0, ends a period of `period` epochs; a period of 0 or less never ends."""
    return period > 0 and (epoch + 1) % period == 0
