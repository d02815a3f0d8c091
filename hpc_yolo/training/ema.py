"""The exponential moving average of a model's weights, which is evaluated and saved as best."""

from __future__ import annotations

import copy
import math
from itertools import chain
from typing import Any

import torch
from torch import nn

from hpc_yolo.checkpoint.state import StateDict

DECAY = 0.9999
RAMP_UPDATES = 2000


class ModelEma:
    """A copy of `model` with averaged weights: update u is v <- d v + (1 - d) m with d = 0.9999 (1 - exp(-u / 2000)).

    All floating-point tensors are averaged, including batch-norm statistics; counters are not. The tensors of `model`
    are listed once: it must change them in place.
    """

    def __init__(self, model: nn.Module, updates: int = 0) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.updates = updates
        self._averages, self._averaged = _floating_tensors(self.model), _floating_tensors(model)

    @torch.no_grad()
    def update(self) -> None:
        """Update the averages, in one fused operation over all tensors."""
        self.updates += 1
        torch._foreach_lerp_(self._averages, self._averaged, 1.0 - decay_at(self.updates))

    def state_dict(self) -> dict[str, Any]:
        """Return the averages under the model's own names, and the number of updates."""
        return {**self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Replace the averages and the number of updates."""
        self.model.load_state_dict({name: value for name, value in state_dict.items() if name != "updates"})
        self.updates = state_dict["updates"]


def decay_at(updates: int) -> float:
    """Return the decay d of update number `updates`, from 1."""
    return DECAY * (1 - math.exp(-updates / RAMP_UPDATES))


def _floating_tensors(model: nn.Module) -> list[torch.Tensor]:
    return [tensor for tensor in chain(model.parameters(), model.buffers()) if tensor.is_floating_point()]
