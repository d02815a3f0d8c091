"""Models built from a config: the YOLOv5 v6/v7 family in configs/models, or a file of the user's.

A layer is [from, repeats, block, [arguments]]: `from` is -1 for the layer before or the number of an earlier layer;
nominal repeats and widths are multiplied by `depth_multiple` and `width_multiple`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpc_yolo.core.errors import SpecError, TrainingError
from hpc_yolo.models.config import IMAGE_CHANNELS, MAX_WIDTH, LayerSpec, layer_error, read_activation, read_layers
from hpc_yolo.models.heads import HEADS
from hpc_yolo.models.heads.base import BOX_AND_OBJECTNESS, AnchorHead, Head
from hpc_yolo.models.layers import C3, SPPF, Concat, Conv, Upsample
from hpc_yolo.spec.freeze import FREEZE_HINT, freeze_problem
from hpc_yolo.spec.model_config import load_config, not_a_config

PROBE_PIXELS = 256
LEAST_IMAGE_STRIDE = 32  # also for models of smaller strides: published sizes and paddings depend on it
CHANNEL_MULTIPLE = 8
MAX_BLOCKS = 1000  # with all repeats; the largest of the family has 58
ACTIVATIONS = {kind.__name__: kind for kind in (nn.SiLU, nn.ReLU, nn.LeakyReLU, nn.Hardswish, nn.Mish, nn.GELU)}
# The errors that an invalid config causes in torch and here.
MISTAKES = (KeyError, ValueError, TypeError, IndexError, RuntimeError, AttributeError, ArithmeticError)


class Detector(nn.Module):
    """A model of numbered blocks that ends in a head.

    Input: (B, 3, H, W) in [0, 1], sides multiples of `image_stride` pixels, the largest stride of any block and at
    least 32. Output: as described by `Head.forward`.
    """

    def __init__(self, config: dict[str, Any], num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.model, self._sources, sides = _build_blocks(config, num_classes)
        self.image_stride = max(math.ceil(PROBE_PIXELS / min(sides)), LEAST_IMAGE_STRIDE)
        if "activation" in config:
            _replace_activations(self, config["activation"])
        self._kept = {index for sources in self._sources for index in sources if index >= 0}
        self.head.set_strides(_strides([sides[source] for source in self._sources[-1]]))

    @property
    def head(self) -> Head:
        """The last block."""
        head = self.model[-1]
        assert isinstance(head, Head)
        return head

    @property
    def stride(self) -> torch.Tensor:
        """Input pixels a cell, (levels,)."""
        return self.head.strides

    def forward(self, images: torch.Tensor) -> Any:
        """Return the output of the head."""
        outputs: dict[int, torch.Tensor] = {}
        x: Any = images
        for index, (block, sources) in enumerate(zip(self.model, self._sources, strict=True)):
            inputs = [x if source == -1 else outputs[source] for source in sources]
            x = block(inputs if isinstance(block, (Concat, Head)) else inputs[0])
            if index in self._kept:
                outputs[index] = x
        return x


def build_model(model: str | Path, num_classes: int) -> Detector:
    """Return the model `model`, a name such as yolov5n or a YAML of layers, for `num_classes` classes.

    Raises:
        SpecError: there is no such model, or its config is invalid.
    """
    return build_from_config(load_config(model), num_classes, str(model))


def build_from_config(config: dict[str, Any], num_classes: int, source: str) -> Detector:
    """Return the model that `config` describes. `source` names the config in errors.

    Raises:
        SpecError: the config is invalid.
    """
    try:
        return Detector(config, num_classes)
    except MISTAKES as error:
        raise not_a_config(source, error) from error


def tensor_shapes(config: dict[str, Any], num_classes: int, source: str) -> dict[str, torch.Size]:
    """Return names and shapes of the tensors of the model that `config` describes, without allocating them.

    Raises:
        SpecError: the config is invalid.
    """
    try:
        with torch.device("meta"):
            blocks, _, _ = _build_blocks(config, num_classes)
    except MISTAKES as error:
        raise not_a_config(source, error) from error
    return {f"model.{name}": tensor.shape for name, tensor in blocks.state_dict().items()}


def scaled_width(nominal: int, multiple: float, divisor: int = CHANNEL_MULTIPLE) -> int:
    """Return `nominal` x `multiple`, rounded up to a multiple of `divisor`."""
    return math.ceil(nominal * multiple / divisor) * divisor


def scaled_repeats(nominal: int, multiple: float) -> int:
    """Return `nominal` x `multiple`, rounded, at least one; a single block is not multiplied."""
    return max(round(nominal * multiple), 1) if nominal > 1 else nominal


def _build_blocks(config: dict[str, Any], num_classes: int) -> tuple[nn.Sequential, list[tuple[int, ...]], list[int]]:
    """Return the blocks of all layers; for each, the layers that it reads (-1: the one before), and its output's side.

    Sides are cells of the output for an image of `PROBE_PIXELS`.
    """
    blocks: list[nn.Module] = []
    widths = [IMAGE_CHANNELS]  # then of every layer
    sides = [PROBE_PIXELS]  # likewise
    layers = read_layers(config)
    numbered = [*enumerate(zip(layers, config["backbone"] + config["head"], strict=True))]
    _require_possible_sizes(numbered, config, num_classes)
    for number, (layer, written) in numbered:
        read = [-1 if index == -1 else index + 1 for index in layer.sources]
        try:
            block, c_out = _build_block(layer, [widths[index] for index in read], config, num_classes)
            sides.append(_output_side(block, [sides[index] for index in read]))
        except ValueError as error:
            raise layer_error(number, written, error) from error
        blocks.append(block)
        widths.append(c_out)
    return nn.Sequential(*blocks), [layer.sources for layer in layers], sides[1:]


def _require_possible_sizes(
    numbered: list[tuple[int, tuple[LayerSpec, Any]]], config: dict[str, Any], num_classes: int
) -> None:
    """Check the number of blocks and the widths of all layers before memory is allocated for the first.

    Raises:
        SpecError: there are too many blocks, or a layer is too wide.
    """
    num_blocks = 0
    for number, (layer, written) in numbered:
        num_blocks += scaled_repeats(layer.repeats, config["depth_multiple"])
        width = _own_width(layer, config, num_classes)
        if num_blocks > MAX_BLOCKS:
            raise layer_error(number, written, ValueError(f"more than {MAX_BLOCKS} blocks"))
        if width > MAX_WIDTH:
            raise layer_error(number, written, ValueError(f"a width of {width}; at most {MAX_WIDTH} is possible"))


def _own_width(layer: LayerSpec, config: dict[str, Any], num_classes: int) -> int:
    """Return the output channels that `layer` asks for; 0 for one whose inputs or classes decide."""
    if layer.block in ("Upsample", "Concat", *HEADS):
        return 0
    nominal = int(layer.arguments[0])
    # A layer as wide as the output of the YOLOv5 head is not scaled: published weights depend on it.
    if "anchors" in config and nominal == _num_anchors(config) * (num_classes + BOX_AND_OBJECTNESS):
        return nominal
    return scaled_width(nominal, config["width_multiple"], config.get("channel_multiple", CHANNEL_MULTIPLE))


def _build_block(layer: LayerSpec, c_in: list[int], config: dict[str, Any], num_classes: int) -> tuple[nn.Module, int]:
    """Return (the block of one layer, its width)."""
    if layer.block == "Upsample":
        return Upsample(), c_in[0]
    if layer.block == "Concat":
        return Concat(), sum(c_in)
    if layer.block in HEADS:
        return _build_head(HEADS[layer.block], c_in, config, num_classes), 0
    c_out, others = _own_width(layer, config, num_classes), layer.arguments[1:]
    if layer.block == "C3":
        return C3(c_in[0], c_out, scaled_repeats(layer.repeats, config["depth_multiple"]), *others), c_out
    block = {"Conv": Conv, "SPPF": SPPF}[layer.block]
    return block(c_in[0], c_out, *others), c_out


def _build_head(kind: type[Head], c_in: list[int], config: dict[str, Any], num_classes: int) -> Head:
    """Return the head `kind`, with the anchors of `config` if it has any."""
    if issubclass(kind, AnchorHead):
        return kind(num_classes, _level_anchors(config["anchors"], len(c_in)), c_in)
    return kind(num_classes, c_in)


def _output_side(block: nn.Module, sides: list[int]) -> int:
    """Return the cells a side of the output of `block`, whose inputs have `sides`."""
    side = sides[0]
    if isinstance(block, Conv):
        kernel, stride, padding = block.conv.kernel_size[0], block.conv.stride[0], int(block.conv.padding[0])
        side = (side + 2 * padding - kernel) // stride + 1
    elif isinstance(block, Upsample):
        side *= 2
    elif isinstance(block, Concat) and len(set(sides)) > 1:
        raise ValueError(f"its inputs have {sides} cells a side for an image of {PROBE_PIXELS} pixels")
    if side > PROBE_PIXELS:
        raise ValueError("its output is larger than the image")
    if side < 1:
        raise ValueError(f"nothing is left of an image of {PROBE_PIXELS} pixels")
    return side


def _strides(sides: list[int]) -> torch.Tensor:
    """Return the input pixels a cell of each level, whose inputs have `sides`."""
    if any(PROBE_PIXELS % side for side in sides):
        raise ValueError(
            f"{PROBE_PIXELS} pixels become {sides} cells a side in the levels, which is not a whole stride"
        )
    return torch.tensor([PROBE_PIXELS / side for side in sides], device="cpu")


def _level_anchors(anchors: int | list[list[float]], num_levels: int) -> list[list[float]]:
    """Return pixels (width, height, width, …) of each level; for a number, that many placeholders a level."""
    if isinstance(anchors, int):
        return [[float(number) for number in range(2 * anchors)]] * num_levels
    return anchors


def _num_anchors(config: dict[str, Any]) -> int:
    """Return the number of anchors of a level."""
    return len(_level_anchors(config["anchors"], 1)[0]) // 2


def _replace_activations(model: nn.Module, written: object) -> None:
    """Replace every SiLU by another activation."""
    name, slope = read_activation(written)
    if name not in ACTIVATIONS or (slope is not None and name != "LeakyReLU"):
        raise ValueError(f"activation: unknown {written!r}; there are {', '.join(ACTIVATIONS)}")
    for module in model.modules():
        if isinstance(module, Conv):
            module.act = ACTIVATIONS[name]() if slope is None else nn.LeakyReLU(slope)


def freeze(model: Detector, layers: int | list[int]) -> None:
    """Freeze the first layers, or those with the listed indices; batch norm still updates its statistics.

    Raises:
        TrainingError: there are no such layers, or no trainable one is left.
    """
    if problem := freeze_problem(layers, len(model.model)):
        raise TrainingError(f"train.freeze: {problem}", hint=FREEZE_HINT)
    indices = list(range(layers)) if isinstance(layers, int) else layers
    for index in indices:
        model.model[index].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError("train.freeze: no trainable layer is left", hint=FREEZE_HINT)


def require_valid_layers(model: str, num_classes: int, imgsz: int) -> None:
    """Check that the layers in the file `model` are valid and that their largest stride divides `imgsz`.

    Raises:
        SpecError: a layer is invalid, or `imgsz` is not a multiple of the stride.
    """
    with torch.device("meta"):
        stride = build_model(model, num_classes).image_stride
    if imgsz % stride:
        raise SpecError(
            f"train.imgsz: {imgsz} is not a multiple of {stride}, the largest stride of {model}",
            hint=f"for example --set train.imgsz={-(-imgsz // stride) * stride}",
        )
