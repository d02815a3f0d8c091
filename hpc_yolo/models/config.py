"""Validation of a model's config before anything is built from it, with messages that name field or layer.

Files in YOLOv5's form are accepted: nn.Upsample with its arguments, a Concat of dimension 1, a Detect with nc and
anchors, and fields whose values come from the dataset or the program here (nc, ch, inplace).
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from typing import Any

from hpc_yolo.models.heads import HEADS
from hpc_yolo.models.heads.base import AnchorHead

MAX_WIDTH = 16384  # channels; the widest of the family has 1280
MAX_MULTIPLE = 100
MAX_ANCHORS = 100  # of a level
IMAGE_CHANNELS = 3
REQUIRED = ("depth_multiple", "width_multiple", "backbone", "head")
OPTIONAL = ("anchors", "activation", "channel_multiple", "hyp", "nc", "ch", "inplace")
BLOCKS = ("Conv", "C3", "SPPF", "Upsample", "Concat")
# Names of arguments in their order; the first is always there.
ARGUMENTS = {"Conv": ("width", "kernel", "stride", "padding"), "C3": ("width", "shortcut"), "SPPF": ("width", "kernel")}
LIMITS = {"width": (1, MAX_WIDTH), "kernel": (1, 64), "stride": (1, 64), "padding": (0, 64)}
UPSAMPLE_ARGUMENTS: tuple[list[Any], ...] = ([], [None, 2, "nearest"], ["None", 2, "nearest"])
CONCAT_ARGUMENTS: tuple[list[Any], ...] = ([], [1])
ACTIVATION = re.compile(
    r"(?:torch\.)?(?:nn\.)?(?P<name>\w+)"
    r"(?:\((?:negative_slope=)?(?P<slope>\d*\.?\d+)?(?:,\s*)?(?:inplace=(?:True|False))?\))?"
)


@dataclass(frozen=True)
class LayerSpec:
    """One layer of a config.

    Attributes:
        sources: the layers that it reads, -1 for the one before (of the first layer: the image).
    """

    sources: tuple[int, ...]
    repeats: int
    block: str
    arguments: list[Any]


def read_layers(config: dict[str, Any]) -> list[LayerSpec]:
    """Return the layers of backbone and head in their order.

    Raises:
        ValueError: names the field or layer, its value and the allowed values.
    """
    _check_fields(config)
    layers: list[LayerSpec] = []
    for section in ("backbone", "head"):
        for written in config[section]:
            try:
                layers.append(_read_layer(written, len(layers), config.get("anchors")))
            except ValueError as error:
                raise layer_error(len(layers), written, error) from error
    for number, layer in enumerate(layers[:-1]):
        if layer.block in HEADS:
            raise ValueError(f"layer {number} is a {layer.block}, a head, which must be the last layer")
    if layers[-1].block not in HEADS:
        raise ValueError(f"the last layer must be a head ({', '.join(HEADS)}), not a {layers[-1].block}")
    _check_use_of_anchors(layers[-1].block, config)
    return layers


def layer_error(number: int, written: object, error: Exception) -> ValueError:
    """Return `error` with the layer that caused it."""
    return ValueError(f"layer {number}, {written}: {error}")


def read_activation(written: object) -> tuple[str, float | None]:
    """Return (name, slope or None) of SiLU, nn.SiLU(), nn.LeakyReLU(0.1) and the like.

    Raises:
        ValueError: it has another form.
    """
    found = ACTIVATION.fullmatch(str(written))
    if found is None:
        raise ValueError(f"activation: {written!r} is not an activation such as SiLU or LeakyReLU(0.1)")
    return found["name"], None if found["slope"] is None else float(found["slope"])


def _check_fields(config: dict[str, Any]) -> None:
    for name in config:
        near = difflib.get_close_matches(str(name), (*REQUIRED, *OPTIONAL), n=1, cutoff=0.8)
        if near and name not in (*REQUIRED, *OPTIONAL):
            raise ValueError(f"there is no field {name}; did you mean {near[0]}?")
    missing = [name for name in REQUIRED if name not in config]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing")
    for name in ("depth_multiple", "width_multiple"):
        if type(config[name]) not in (int, float) or not 0 < config[name] <= MAX_MULTIPLE:
            raise ValueError(f"{name}: {config[name]!r} is not a number above 0, at most {MAX_MULTIPLE}")
    _check_number("channel_multiple", config.get("channel_multiple", 1), 1, MAX_WIDTH)
    if config.get("ch", IMAGE_CHANNELS) != IMAGE_CHANNELS:
        raise ValueError(f"ch: images have {IMAGE_CHANNELS} channels, not {config['ch']!r}")
    if "anchors" in config:
        _check_anchors(config["anchors"])
    for section in ("backbone", "head"):
        if not isinstance(config[section], list) or not config[section]:
            raise ValueError(f"{section}: must be a list of layers")


def _check_use_of_anchors(head: str, config: dict[str, Any]) -> None:
    """Check that there are anchors exactly where the head uses them."""
    is_used = issubclass(HEADS[head], AnchorHead)
    if is_used and "anchors" not in config:
        raise ValueError(f"anchors missing: {head} needs them")
    if not is_used and "anchors" in config:
        raise ValueError(f"anchors: {head} has none; leave the field out")


def _check_anchors(anchors: object) -> None:
    if not isinstance(anchors, list):
        _check_number("anchors: a list of levels, or how many a level;", anchors, 1, MAX_ANCHORS)
        return
    for level in anchors:
        sizes = level if isinstance(level, list) else []
        positive = all(type(size) in (int, float) and 0 < size < math.inf for size in sizes)
        if not positive or not 2 <= len(sizes) <= 2 * MAX_ANCHORS or len(sizes) % 2:
            raise ValueError(f"anchors: {level!r} is not a list of widths and heights in turn, in pixels above 0")
    if len({len(level) for level in anchors}) != 1:
        raise ValueError("anchors: must be lists of equal length, one a level")


def _read_layer(written: object, number: int, anchors: object) -> LayerSpec:
    if not isinstance(written, (list, tuple)) or len(written) != 4:
        raise ValueError("a layer is [from, repeats, block, [arguments]]")
    source, repeats, block, arguments = written
    kind = str(block).removeprefix("nn.")
    if kind not in BLOCKS and kind not in HEADS:
        raise ValueError(f"unknown block {block!r}; there are {', '.join((*BLOCKS, *HEADS))}")
    _check_number("repeats:", repeats, 1, MAX_WIDTH)
    if repeats != 1 and kind != "C3":
        raise ValueError(f"{kind} is not repeated; C3 is")
    if not isinstance(arguments, list):
        raise ValueError(f"arguments: {arguments!r} is not a list")
    _check_arguments(kind, arguments, anchors)
    sources = tuple(_source(index, number) for index in (source if isinstance(source, list) else [source]))
    if len(sources) != 1 and kind != "Concat" and kind not in HEADS:
        raise ValueError(f"{kind} reads one layer, not {len(sources)}")
    if not sources:
        raise ValueError("from: must name a layer")
    return LayerSpec(sources, repeats, kind, arguments)


def _source(index: object, number: int) -> int:
    """Return the layer that `index` in layer `number` means: -1 stays, others below zero count from this layer."""
    if type(index) is not int:
        raise ValueError(f"from: {index!r} is not the number of a layer")
    if index == -1:
        return index
    found = number + index if index < 0 else index
    if not 0 <= found < number:
        raise ValueError(f"from: there is no layer {index} before this one")
    return found


def _check_arguments(kind: str, arguments: list[Any], anchors: object) -> None:
    if kind == "Upsample":
        if arguments not in UPSAMPLE_ARGUMENTS:
            raise ValueError("Upsample doubles by the nearest neighbour and takes no arguments")
    elif kind == "Concat":
        if arguments not in CONCAT_ARGUMENTS:
            raise ValueError("Concat joins channels and takes no arguments")
    elif kind in HEADS:
        if len(arguments) > 2 or (len(arguments) == 2 and arguments[1] not in ("anchors", anchors)):
            raise ValueError(f"{kind} takes its classes from the dataset and its anchors from `anchors`; write []")
    else:
        _check_sizes(kind, arguments)


def _check_sizes(kind: str, arguments: list[Any]) -> None:
    names = ARGUMENTS[kind]
    if not 1 <= len(arguments) <= len(names):
        raise ValueError(f"{kind} takes {', '.join(names)}, of which the first is required")
    for name, value in zip(names, arguments, strict=False):
        if name == "shortcut":
            if not isinstance(value, bool):
                raise ValueError(f"shortcut: {value!r} is neither true nor false")
        elif not (name == "padding" and value is None):
            _check_number(f"{name}:", value, *LIMITS[name])
    if kind == "SPPF" and len(arguments) > 1 and arguments[1] % 2 == 0:
        raise ValueError(f"kernel: {arguments[1]} is even; the pools of SPPF need an odd one to keep the size")


def _check_number(name: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} {value!r} is not a whole number from {least} to {most}")
