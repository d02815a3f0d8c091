"""Numbers gone bad: which step gave a loss or gradients that are not finite, found without waiting for the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from hpc_yolo.distributed import World

NONE_YET = -1
MAX_BAD_STEPS = 10  # of an epoch, before training ends


class BadStep(NamedTuple):
    """A step, and the first rank on which its numbers were not finite."""

    step: int
    rank: int


class FiniteWatch:
    """Remembers on the device the first step of this rank whose numbers were not finite."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._first_bad = torch.full((), NONE_YET, dtype=torch.int64, device=world.device)

    def note(self, step: int, values: torch.Tensor) -> None:
        """Look at `values` of `step`, of any shape."""
        is_bad = ~torch.isfinite(values).all() & (self._first_bad == NONE_YET)
        self._first_bad = torch.where(is_bad, step, self._first_bad)

    def first_bad(self) -> BadStep | None:
        """The first bad step of all ranks; the same on every rank, which all must ask."""
        steps = [int(step) for (step,) in self._world.gather_figures([float(self._first_bad)])]
        found = [BadStep(step, rank) for rank, step in enumerate(steps) if step != NONE_YET]
        return min(found, default=None)

    def forget(self) -> None:
        """What was bad did not reach the weights."""
        self._first_bad.fill_(NONE_YET)


class Statistics:
    """A copy of a network's running statistics, which a forward pass changes before anybody knows what came of it."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = list(model.buffers())
        self._kept = [buffer.clone() for buffer in self._buffers]

    def keep(self) -> None:
        """Remember them as they are now."""
        torch._foreach_copy_(self._kept, self._buffers)

    def put_back(self) -> None:
        """Make them as they were."""
        torch._foreach_copy_(self._buffers, self._kept)
