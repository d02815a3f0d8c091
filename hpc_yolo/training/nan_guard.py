"""Loss and gradients that are not finite: detected without waiting for the device, and kept out of the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from hpc_yolo.checkpoint.state import StateDict
from hpc_yolo.core.errors import TrainingError
from hpc_yolo.distributed import World
from hpc_yolo.runs.events import AnyEvent, WarningRaised

NONE_YET = -1
MAX_BAD_STEPS = 10  # of an epoch, before training ends


class BadStep(NamedTuple):
    """A step, and the first rank on which its numbers were not finite."""

    step: int
    rank: int


class RolledBack(Exception):
    """Raised on all ranks to return to the newest checkpoint and leave out the current step."""


class NanGuard:
    """Applies `train.on_nonfinite`; all ranks call its methods alike and get the same result.

    stop: training ends before a checkpoint or a log line holds such a number. skip: the gradients of the step are
    dropped. rollback: training goes back to the newest checkpoint, and leaves out the step.

    Attributes:
        bad_steps: the steps that are left out, in ascending order.
    """

    def __init__(
        self,
        world: World,
        model: nn.Module,
        policy: Literal["stop", "skip", "rollback"],
        steps_per_epoch: int,
        emit: Callable[[AnyEvent], None],
        describe: Callable[[BadStep], str],
        checkpoints: Path,
    ) -> None:
        """Initialize the guard.

        Args:
            describe: names a bad step and its images.
            checkpoints: the directory that a message names.
        """
        self.bad_steps: list[int] = []
        self._world = world
        self._policy = policy
        self._steps_per_epoch = steps_per_epoch
        self._emit, self._describe, self._checkpoints = emit, describe, checkpoints
        self._statistics = Statistics(model) if policy == "skip" else None
        self._first_bad = torch.full((), NONE_YET, dtype=torch.int64, device=world.device)

    @property
    def rolls_back(self) -> bool:
        """True if a bad step needs a checkpoint to go back to."""
        return self._policy == "rollback"

    def observe(self, step: int, values: torch.Tensor) -> None:
        """Record on the device whether `values` of `step`, of any shape, are the first that are not finite."""
        is_bad = ~torch.isfinite(values).all() & (self._first_bad == NONE_YET)
        self._first_bad = torch.where(is_bad, step, self._first_bad)

    def rejects(self, step: int) -> bool:
        """Return whether the gradients of `step` must be dropped; the running statistics are then as before it.

        Raises:
            RolledBack: training must go back to the newest checkpoint.
            TrainingError: too many steps of this epoch were bad.
        """
        if self._policy == "stop" or (bad := self._find_bad()) is None:
            return False
        self.bad_steps.append(step)
        self._forget()
        epoch_start = step // self._steps_per_epoch * self._steps_per_epoch
        if sum(bad_step >= epoch_start for bad_step in self.bad_steps) > MAX_BAD_STEPS:
            raise TrainingError(f"{self._describe(bad)}; it is one of more than {MAX_BAD_STEPS} in this epoch")
        if self._statistics is None:
            remedy = "rolling back to the last checkpoint, to leave it out"
            self._emit(WarningRaised(message=f"{self._describe(bad)}; {remedy}"))
            raise RolledBack
        self._emit(WarningRaised(message=f"{self._describe(bad)}; its gradients are dropped"))
        self._statistics.restore()
        return True

    def accept(self) -> None:
        """Keep the running statistics as they are now, after an optimiser step."""
        if self._statistics is not None:
            self._statistics.keep()

    def require_finite(self) -> None:
        """Stop before a number that is not finite reaches a checkpoint.

        Raises:
            TrainingError: naming the step and the images.
        """
        if bad := self._find_bad():
            raise TrainingError(
                f"{self._describe(bad)}; the checkpoints before it stay in {self._checkpoints}",
                hint="set train.on_nonfinite to skip or rollback, lower train.hyp_overrides.lr0, or use precision fp32",
            )

    def require_finite_log(self) -> None:
        """Stop before a log line holds such a number; with another policy the step was rejected already.

        Raises:
            TrainingError: naming the step and the images.
        """
        if self._policy == "stop":
            self.require_finite()

    def state_dict(self) -> dict[str, Any]:
        """Return the bad steps and, where they may be needed, the running statistics after the last update."""
        statistics = {} if self._statistics is None else self._statistics.state_dict()
        return {**statistics, "bad_steps": list(self.bad_steps)}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Add the saved bad steps to those found since, and load the statistics; load the model before."""
        self.bad_steps = sorted({*self.bad_steps, *state_dict["bad_steps"]})
        self._forget()
        if self._statistics is not None:
            self._statistics.load_state_dict(state_dict)

    def _find_bad(self) -> BadStep | None:
        """Return the first bad step of all ranks."""
        steps = [int(step) for (step,) in self._world.gather_numbers([float(self._first_bad)])]
        found = [BadStep(step, rank) for rank, step in enumerate(steps) if step != NONE_YET]
        return min(found, default=None)

    def _forget(self) -> None:
        self._first_bad.fill_(NONE_YET)


class Statistics:
    """A copy of a model's running statistics, which a forward pass changes before its result is known."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = list(model.buffers())
        self._kept = [buffer.clone() for buffer in self._buffers]

    def keep(self) -> None:
        """Copy the current statistics."""
        torch._foreach_copy_(self._kept, self._buffers)

    def restore(self) -> None:
        """Set the statistics to the copy."""
        torch._foreach_copy_(self._buffers, self._kept)

    def state_dict(self) -> dict[str, Any]:
        """Return the copy."""
        return {f"statistics.{number}": kept for number, kept in enumerate(self._kept)}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Replace the copy; by the model's own statistics if the state has none."""
        for number, (kept, buffer) in enumerate(zip(self._kept, self._buffers, strict=True)):
            kept.copy_(state_dict.get(f"statistics.{number}", buffer))
