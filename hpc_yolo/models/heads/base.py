"""The interface of a head: strides, raw and decoded outputs, and the loss that trains it; anchors where it has them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from hpc_yolo.models.losses.base import Loss
from hpc_yolo.spec.recipe import Hyperparameters

BOX_AND_OBJECTNESS = 5

HeadOutput = list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]


class Head(nn.Module, ABC):
    """The last layer of a model. A subclass implements `forward` and `loss`.

    Args:
        c_in: channels of each level.
    """

    strides: torch.Tensor

    def __init__(self, num_classes: int, c_in: list[int]) -> None:
        super().__init__()
        self.num_classes = num_classes
        # On a CPU, so that a model on the meta device has their values too.
        self.register_buffer("strides", torch.ones(len(c_in), device="cpu"), persistent=False)

    @abstractmethod
    def forward(self, levels: list[torch.Tensor]) -> HeadOutput:
        """Return the predictions for `levels`, one (B, C, H, W) a level.

        In training: raw tensors (B, A, H, W, outputs), one a level, with A predictions a cell. In evaluation: (decoded,
        raw tensors), decoded (B, predictions, 5 + classes): cxcywh in input pixels, objectness, class scores, by level,
        prediction of the cell, y, x. A head without objectness returns 1 for it: the score of a class is their product.
        """

    @abstractmethod
    def loss(self, hyp: Hyperparameters, imgsz: int, label_smoothing: float) -> Loss:
        """Return the loss of the raw outputs, which follows later changes of the head."""

    def set_strides(self, strides: torch.Tensor) -> None:
        """Set input pixels a cell of each level; called once."""
        self.strides.copy_(strides)

    def trained_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the `config` of the model with what training has changed in it."""
        return config


class AnchorHead(Head):
    """A head whose boxes are multiples of anchors.

    Args:
        anchors_pixels: width and height in turn, in input pixels, for each level.
    """

    anchors: torch.Tensor

    def __init__(self, num_classes: int, anchors_pixels: list[list[float]], c_in: list[int]) -> None:
        super().__init__(num_classes, c_in)
        self.num_anchors = len(anchors_pixels[0]) // 2
        if len(anchors_pixels) != len(c_in):
            raise ValueError(f"anchors for {len(anchors_pixels)} levels, and the head has {len(c_in)}")
        # (levels, anchors, 2) in grid units: pixels until `set_strides` divides them. On a CPU, as the strides.
        self.register_buffer("anchors", torch.tensor(anchors_pixels, device="cpu").float().view(len(c_in), -1, 2))

    def anchors_pixels(self) -> torch.Tensor:
        """Return (levels, anchors, 2) width, height in input pixels."""
        return self.anchors * self.strides.view(-1, 1, 1)

    def set_anchors(self, pixels: torch.Tensor) -> None:
        """Replace the anchors by `pixels` (levels, anchors, 2) in input pixels, the smallest at the finest level."""
        self.anchors.copy_(_smallest_first(pixels.to(self.anchors), self.strides) / self.strides.view(-1, 1, 1))

    def set_strides(self, strides: torch.Tensor) -> None:
        """Set the strides as `Head` does, and convert pixel anchors to grid units."""
        super().set_strides(strides)
        self.set_anchors(self.anchors)

    def trained_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the `config` of the model with the anchors that are used in training."""
        return {**config, "anchors": self.anchors_pixels().flatten(1).tolist()}


def _smallest_first(anchors: torch.Tensor, strides: torch.Tensor) -> torch.Tensor:
    """Return `anchors` with their levels in the order of `strides`."""
    areas = anchors.prod(dim=-1).mean(dim=-1)
    in_order = (areas[-1] - areas[0]).sign() == (strides[-1] - strides[0]).sign()
    return anchors if in_order else anchors.flip(0)
