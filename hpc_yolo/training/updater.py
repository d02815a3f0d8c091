"""The update of weights from gradients: unscale, clip, optimiser step, update of the averaged model."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import nn

from hpc_yolo.checkpoint.state import StateDict
from hpc_yolo.training.ema import ModelEma

MAX_GRAD_NORM = 10.0


class Updater:
    """Optimiser steps. Its state holds the optimiser's buffers, the loss scale and the last gradient norm.

    Attributes:
        grad_norm: a scalar on the device, before clipping; infinite where the loss scale was too large.
        last_step: the step that ended in the last update.
    """

    def __init__(
        self, model: nn.Module, ema: ModelEma, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
    ) -> None:
        self.optimizer = optimizer
        self.scaler = scaler
        self.last_step = -1
        self._parameters = list(model.parameters())
        self.grad_norm = torch.zeros((), device=self._parameters[0].device)
        self._ema = ema

    def clip(self) -> torch.Tensor:
        """Clip the norm of the gradients and return the norm before clipping."""
        self.scaler.unscale_(self.optimizer)
        self.grad_norm = nn.utils.clip_grad_norm_(self._parameters, MAX_GRAD_NORM)
        return self.grad_norm

    def update(self, step: int) -> None:
        """Step the optimiser with the gradients gathered until `step`, then update the averaged model."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self._ema.update()
        self.last_step = step

    def state_dict(self) -> dict[str, Any]:
        """Return buffers as `<parameter>.<buffer>`, and three values."""
        buffers = {
            f"{index}.{name}": value
            for index, state in self.optimizer.state_dict()["state"].items()
            for name, value in state.items()
            if value is not None
        }
        scaler = self.scaler.state_dict()
        return {**buffers, "scaler": scaler, "grad_norm": float(self.grad_norm), "last_step": self.last_step}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Replace the state. A loss scale that is not finite would make every gradient non-finite and is left out."""
        self._load_optimizer({name: value for name, value in state_dict.items() if isinstance(value, torch.Tensor)})
        scaler = state_dict["scaler"]  # empty where the attempt that saved it needed none
        if scaler and all(map(math.isfinite, scaler.values())):
            self.scaler.load_state_dict(scaler)
        self.grad_norm = torch.tensor(state_dict["grad_norm"], dtype=torch.float64, device=self.grad_norm.device)
        self.last_step = state_dict["last_step"]

    def _load_optimizer(self, buffers: dict[str, torch.Tensor]) -> None:
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in buffers.items():
            index, buffer = re.fullmatch(r"(\d+)\.(\w+)", name).groups()  # type: ignore[union-attr]
            state.setdefault(int(index), {})[buffer] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        for parameter, loaded in self.optimizer.state.items():
            for buffer, tensor in loaded.items():
                if tensor.shape == parameter.shape:
                    loaded[buffer] = in_layout_of(parameter, tensor)


class PendingGradients:
    """The gradients gathered since the last optimiser step, under the names of their parameters."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state_dict(self) -> dict[str, Any]:
        """Return the gradients of all parameters that have one."""
        return {name: weights.grad for name, weights in self._model.named_parameters() if weights.grad is not None}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Replace the gradients of all parameters."""
        self._model.zero_grad()
        for name, gradient in state_dict.items():
            parameter = self._model.get_parameter(name)
            parameter.grad = in_layout_of(parameter, gradient)


def in_layout_of(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy of `tensor` in the memory format of `parameter`: files are contiguous, models channels last."""
    return torch.empty_like(parameter, requires_grad=False).copy_(tensor)
