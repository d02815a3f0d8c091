"""What the config of a network may say, checked in words before anything is built of it.

Files of the original's form are read as they are: nn.Upsample with its arguments, a Concat of dimension 1, a Detect
with nc and anchors, and fields that say what the dataset or the program says here anyway (nc, ch, inplace).
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from typing import Any

from hpc_yolo.models.heads import HEADS

MAX_WIDTH = 16384  # channels; the widest of the family has 1280
MAX_MULTIPLE = 100
MAX_ANCHORS = 100  # a level
IMAGE_CHANNELS = 3
REQUIRED = ("depth_multiple", "width_multiple", "anchors", "backbone", "head")
OPTIONAL = ("activation", "channel_multiple", "nc", "ch", "inplace")
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
class Row:
    """One block of a network.

    `sources`: the rows that it reads, -1 for the one before (of the first row: the image).
    """

    sources: tuple[int, ...]
    repeats: int
    block: str
    arguments: list[Any]


def read_rows(config: dict[str, Any]) -> list[Row]:
    """The rows of backbone and head in their order.

    Raises:
        ValueError: says which field or row is wrong, what is there and what may be.
    """
    _check_fields(config)
    rows: list[Row] = []
    for part in ("backbone", "head"):
        for written in config[part]:
            try:
                rows.append(_read_row(written, len(rows), config["anchors"]))
            except ValueError as error:
                raise row_error(len(rows), written, error) from error
    for number, row in enumerate(rows[:-1]):
        if row.block in HEADS:
            raise ValueError(f"row {number} is a {row.block}, which ends a network, and rows follow it")
    if rows[-1].block not in HEADS:
        raise ValueError(f"the last row must be a head ({', '.join(HEADS)}), not a {rows[-1].block}")
    return rows


def row_error(number: int, written: object, error: Exception) -> ValueError:
    """`error`, with the row that is to blame."""
    return ValueError(f"row {number}, {written}: {error}")


def read_activation(written: object) -> tuple[str, float | None]:
    """(name, slope or None) of SiLU, nn.SiLU(), nn.LeakyReLU(0.1) and the like.

    Raises:
        ValueError: it is written otherwise.
    """
    found = ACTIVATION.fullmatch(str(written))
    if found is None:
        raise ValueError(f"activation: {written!r} is no name such as SiLU or LeakyReLU(0.1)")
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
            raise ValueError(f"{name}: {config[name]!r} is no number above 0, to {MAX_MULTIPLE}")
    _check_number("channel_multiple", config.get("channel_multiple", 1), 1, MAX_WIDTH)
    if config.get("ch", IMAGE_CHANNELS) != IMAGE_CHANNELS:
        raise ValueError(f"ch: images have {IMAGE_CHANNELS} channels, not {config['ch']!r}")
    _check_anchors(config["anchors"])
    for part in ("backbone", "head"):
        if not isinstance(config[part], list) or not config[part]:
            raise ValueError(f"{part}: must be a list of rows")


def _check_anchors(anchors: object) -> None:
    if not isinstance(anchors, list):
        _check_number("anchors: a list of levels, or how many a level;", anchors, 1, MAX_ANCHORS)
        return
    for level in anchors:
        sizes = level if isinstance(level, list) else []
        positive = all(type(size) in (int, float) and 0 < size < math.inf for size in sizes)
        if not positive or not 2 <= len(sizes) <= 2 * MAX_ANCHORS or len(sizes) % 2:
            raise ValueError(f"anchors: {level!r} are no widths and heights in turn, in pixels above 0")
    if len({len(level) for level in anchors}) != 1:
        raise ValueError("anchors: there must be levels, all with as many")


def _read_row(written: object, number: int, anchors: object) -> Row:
    if not isinstance(written, (list, tuple)) or len(written) != 4:
        raise ValueError("a row is [from, repeats, block, [arguments]]")
    source, repeats, block, arguments = written
    kind = str(block).removeprefix("nn.")
    if kind not in BLOCKS and kind not in HEADS:
        raise ValueError(f"unknown block {block!r}; there are {', '.join((*BLOCKS, *HEADS))}")
    _check_number("repeats:", repeats, 1, MAX_WIDTH)
    if repeats != 1 and kind != "C3":
        raise ValueError(f"{kind} is not repeated; C3 is")
    if not isinstance(arguments, list):
        raise ValueError(f"arguments: {arguments!r} is no list")
    _check_arguments(kind, arguments, anchors)
    sources = tuple(_source(index, number) for index in (source if isinstance(source, list) else [source]))
    if len(sources) != 1 and kind != "Concat" and kind not in HEADS:
        raise ValueError(f"{kind} reads one row, not {len(sources)}")
    if not sources:
        raise ValueError("from: names no row")
    return Row(sources, repeats, kind, arguments)


def _source(index: object, number: int) -> int:
    """The row that `index` in row `number` means: -1 stays, other negative ones count from this row."""
    if type(index) is not int:
        raise ValueError(f"from: {index!r} is no number of a row")
    if index == -1:
        return index
    found = number + index if index < 0 else index
    if not 0 <= found < number:
        raise ValueError(f"from: there is no row {index} before this one")
    return found


def _check_arguments(kind: str, arguments: list[Any], anchors: object) -> None:
    if kind == "Upsample":
        if arguments not in UPSAMPLE_ARGUMENTS:
            raise ValueError("Upsample doubles by the nearest neighbour; it takes no arguments")
    elif kind == "Concat":
        if arguments not in CONCAT_ARGUMENTS:
            raise ValueError("Concat joins channels; it takes no arguments")
    elif kind in HEADS:
        if len(arguments) > 2 or (len(arguments) == 2 and arguments[1] not in ("anchors", anchors)):
            raise ValueError(f"{kind} has its classes from the dataset and its anchors from `anchors`; write []")
    else:
        _check_sizes(kind, arguments)


def _check_sizes(kind: str, arguments: list[Any]) -> None:
    names = ARGUMENTS[kind]
    if not 1 <= len(arguments) <= len(names):
        raise ValueError(f"{kind} takes {', '.join(names)}, of which the first must be given")
    for name, value in zip(names, arguments, strict=False):
        if name == "shortcut":
            if not isinstance(value, bool):
                raise ValueError(f"shortcut: {value!r} is neither true nor false")
        elif not (name == "padding" and value is None):
            _check_number(f"{name}:", value, *LIMITS[name])
    if kind == "SPPF" and len(arguments) > 1 and arguments[1] % 2 == 0:
        raise ValueError(f"kernel: {arguments[1]} is even, and the pools of SPPF would shrink the map")


def _check_number(said: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{said} {value!r} is no whole number from {least} to {most}")
