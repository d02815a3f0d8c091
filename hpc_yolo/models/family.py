"""Networks from the rows of a config: the YOLOv5 v6/v7 family in configs/models, or a file of one's own.

A row is [from, repeats, block, [arguments]]: `from` is -1 for the row before or the number of an earlier row; nominal
repeats and widths are multiplied by `depth_multiple` and `width_multiple`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpc_yolo.models.config import IMAGE_CHANNELS, MAX_WIDTH, Row, read_activation, read_rows, row_error
from hpc_yolo.models.heads import HEADS
from hpc_yolo.models.heads.base import BOX_AND_OBJECTNESS, Head
from hpc_yolo.models.layers import C3, SPPF, Concat, Conv
from hpc_yolo.spec.model_config import load_config, not_a_config

PROBE_PIXELS = 256
LEAST_IMAGE_STRIDE = 32  # also where a network has smaller ones: sizes and paddings are published with it
CHANNEL_MULTIPLE = 8
MAX_BLOCKS = 1000  # with all repeats; the largest of the family has 58
ACTIVATIONS = {kind.__name__: kind for kind in (nn.SiLU, nn.ReLU, nn.LeakyReLU, nn.Hardswish, nn.Mish, nn.GELU)}
# What a config that makes no sense provokes in torch and here.
MISTAKES = (KeyError, ValueError, TypeError, IndexError, RuntimeError, AttributeError, ArithmeticError)


class Detector(nn.Module):
    """A network of numbered blocks that ends in a `Detect` head. Input: (B, 3, H, W) in [0, 1], sides multiples of
    `image_stride` pixels, the largest stride of any block and at least 32; output as the head says."""

    def __init__(self, config: dict[str, Any], num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.model, self._sources, largest_stride = _build_blocks(config, num_classes)
        self.image_stride = max(largest_stride, LEAST_IMAGE_STRIDE)
        if "activation" in config:
            _replace_activations(self, config["activation"])
        self._kept = {index for sources in self._sources for index in sources if index >= 0}
        self.head.set_strides(self._measure_strides())

    @property
    def head(self) -> Head:
        head = self.model[-1]
        assert isinstance(head, Head)
        return head

    @property
    def stride(self) -> torch.Tensor:
        """Input pixels a cell, (levels,)."""
        return self.head.strides

    def forward(self, images: torch.Tensor) -> Any:
        outputs: dict[int, torch.Tensor] = {}
        x: Any = images
        for index, (block, sources) in enumerate(zip(self.model, self._sources, strict=True)):
            inputs = [x if source == -1 else outputs[source] for source in sources]
            x = block(inputs if isinstance(block, (Concat, Head)) else inputs[0])
            if index in self._kept:
                outputs[index] = x
        return x

    @torch.no_grad()
    def _measure_strides(self) -> torch.Tensor:
        was_training = self.training
        self.train()
        momenta = [(module, module.momentum) for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        for module, _ in momenta:
            module.momentum = 0.0  # the probe leaves no trace in running statistics
        levels = self(torch.zeros(1, 3, PROBE_PIXELS, PROBE_PIXELS))
        for module, momentum in momenta:
            module.momentum = momentum
            assert module.num_batches_tracked is not None
            module.num_batches_tracked.zero_()
        self.train(was_training)
        sides = [level.shape[2] for level in levels]
        if any(PROBE_PIXELS % side for side in sides):
            raise ValueError(
                f"{PROBE_PIXELS} pixels become {sides} cells a side in the levels, which is no whole stride"
            )
        return torch.tensor([PROBE_PIXELS / side for side in sides], device="cpu")


def build_model(model: str | Path, num_classes: int) -> Detector:
    """The network `model`, a name such as yolov5n or a YAML of rows, for `num_classes` classes.

    Raises:
        SpecError: no such model, or its config makes no sense.
    """
    return build_from_config(load_config(model), num_classes, str(model))


def build_from_config(config: dict[str, Any], num_classes: int, source: str) -> Detector:
    """The network that `config` describes. `source` names the config in errors.

    Raises:
        SpecError: the config makes no sense.
    """
    try:
        return Detector(config, num_classes)
    except MISTAKES as error:
        raise not_a_config(source, error) from error


def tensor_shapes(config: dict[str, Any], num_classes: int, source: str) -> dict[str, torch.Size]:
    """Names and shapes of the tensors of the network that `config` describes, without the memory for them.

    Raises:
        SpecError: the config makes no sense.
    """
    try:
        with torch.device("meta"):
            blocks, _, _ = _build_blocks(config, num_classes)
    except MISTAKES as error:
        raise not_a_config(source, error) from error
    return {f"model.{name}": tensor.shape for name, tensor in blocks.state_dict().items()}


def scaled_width(nominal: int, multiple: float, divisor: int = CHANNEL_MULTIPLE) -> int:
    """The nearest multiple of `divisor` at or above `nominal` x `multiple`."""
    return math.ceil(nominal * multiple / divisor) * divisor


def scaled_repeats(nominal: int, multiple: float) -> int:
    """At least one; a single block is never multiplied."""
    return max(round(nominal * multiple), 1) if nominal > 1 else nominal


def _build_blocks(config: dict[str, Any], num_classes: int) -> tuple[nn.Sequential, list[tuple[int, ...]], int]:
    """The blocks of all rows; for each, the rows that it reads (-1: the one before); the largest stride of any."""
    blocks: list[nn.Module] = []
    widths = [IMAGE_CHANNELS]  # then of every row
    scales = [1.0]  # input pixels a cell, likewise
    num_blocks = 0
    rows = read_rows(config)
    for number, (row, written) in enumerate(zip(rows, config["backbone"] + config["head"], strict=True)):
        read = [-1 if index == -1 else index + 1 for index in row.sources]
        try:
            num_blocks += scaled_repeats(row.repeats, config["depth_multiple"])
            if num_blocks > MAX_BLOCKS:
                raise ValueError(f"more than {MAX_BLOCKS} blocks")
            block, c_out = _build_block(row, [widths[index] for index in read], config, num_classes)
            scales.append(_scale(block, scales[read[0]]))
        except ValueError as error:
            raise row_error(number, written, error) from error
        blocks.append(block)
        widths.append(c_out)
    return nn.Sequential(*blocks), [row.sources for row in rows], math.ceil(max(scales))


def _build_block(row: Row, c_in: list[int], config: dict[str, Any], num_classes: int) -> tuple[nn.Module, int]:
    """(the block of one row, its width)."""
    if row.block == "Upsample":
        return nn.Upsample(scale_factor=2, mode="nearest"), c_in[0]
    if row.block == "Concat":
        return Concat(), sum(c_in)
    if row.block in HEADS:
        return HEADS[row.block](num_classes, _anchor_rows(config["anchors"], len(c_in)), c_in), 0
    num_anchors = len(_anchor_rows(config["anchors"], 1)[0]) // 2
    num_outputs = num_anchors * (num_classes + BOX_AND_OBJECTNESS)
    nominal, *others = row.arguments
    # A row as wide as the head's output is never scaled: published weights depend on it.
    divisor = config.get("channel_multiple", CHANNEL_MULTIPLE)
    c_out = nominal if nominal == num_outputs else scaled_width(nominal, config["width_multiple"], divisor)
    if c_out > MAX_WIDTH:
        raise ValueError(f"a width of {c_out}; at most {MAX_WIDTH} is possible")
    if row.block == "C3":
        return C3(c_in[0], c_out, scaled_repeats(row.repeats, config["depth_multiple"]), *others), c_out
    block = {"Conv": Conv, "SPPF": SPPF}[row.block]
    return block(c_in[0], c_out, *others), c_out


def _scale(block: nn.Module, scale: float) -> float:
    """Input pixels that a cell of the output of `block` is wide, where a cell of its input is `scale` wide."""
    if isinstance(block, Conv):
        return scale * block.conv.stride[0]
    if isinstance(block, nn.Upsample):
        if scale < 2:
            raise ValueError("its output is larger than the image")
        return scale / 2
    return scale


def _anchor_rows(anchors: int | list[list[float]], num_levels: int) -> list[list[float]]:
    """Pixels (width, height, width, …) of each level; a number stands for so many a level, still to be found."""
    if isinstance(anchors, int):
        return [[float(number) for number in range(2 * anchors)]] * num_levels
    return anchors


def _replace_activations(model: nn.Module, written: object) -> None:
    """Every SiLU by another activation."""
    name, slope = read_activation(written)
    if name not in ACTIVATIONS or (slope is not None and name != "LeakyReLU"):
        raise ValueError(f"activation: unknown {written!r}; there are {', '.join(ACTIVATIONS)}")
    for module in model.modules():
        if isinstance(module, Conv):
            module.act = ACTIVATIONS[name]() if slope is None else nn.LeakyReLU(slope)
