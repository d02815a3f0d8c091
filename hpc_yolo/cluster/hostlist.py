"""Slurm's node lists, such as `gpu[01-04,07],login1`, read without Slurm: inside containers there is no scontrol.

`first_host` is what every task needs and takes no longer for a thousand nodes than for one; `expand` names them all.
Zero padding is kept, several bracket groups multiply with the last one turning fastest, and text may follow a bracket.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from typing import NoReturn

from hpc_yolo.core.errors import ClusterError

MAX_HOSTS = 1_000_000  # more than any cluster has: a slip of the pen must not fill the memory
_RANGE = re.compile(r"(?P<first>[0-9]+)(?:-(?P<last>[0-9]+))?")
_LITERAL = re.compile(r"[A-Za-z0-9._:-]*")


def expand(text: str) -> list[str]:
    """Every host in the node list `text`, in its order; a host named twice comes twice.

    Raises:
        ClusterError: `text` is no node list; the message names the faulty part.
    """
    hosts: list[str] = []
    for item in _items(text):
        groups = [list(_group_values(group, text)) for group in _groups(item, text)]
        if len(hosts) + math.prod(map(len, groups)) > MAX_HOSTS:
            _refuse(text, item, f"the list names more than {MAX_HOSTS} hosts")
        hosts += map("".join, itertools.product(*groups))
    return hosts


def first_host(text: str) -> str:
    """The first host in the node list `text`, without expanding the list or reading beyond its first part.

    Raises:
        ClusterError: the first part of `text` names no host; the message names what is wrong in it.
    """
    item = next(_items(text))
    return "".join(next(_group_values(group, text)) for group in _groups(item, text))


def _items(text: str) -> Iterator[str]:
    """The parts of `text` between commas outside brackets."""
    if not text.strip():
        raise ClusterError("the node list is empty; expected something like gpu01 or gpu[01-04,07]")
    start, is_open = 0, False
    stripped = text.strip()
    for position, character in enumerate(stripped + ","):
        if character == "[" and not is_open:
            is_open = True
        elif character == "]" and is_open:
            is_open = False
        elif character in "[]":
            _refuse(text, stripped[start : position + 1], f"{character!r} is out of place")
        elif character == "," and not is_open:
            yield _checked_item(text, stripped[start:position])
            start = position + 1
    if is_open:
        _refuse(text, stripped[start:], "a bracket is not closed")


def _checked_item(text: str, item: str) -> str:
    if not item.strip():
        _refuse(text, ",", "there is no host name between two commas, or at an end")
    return item.strip()


def _groups(item: str, text: str) -> list[str]:
    """`r[1-2]n[1-2]` as ["r", "[1-2]", "n", "[1-2]"]."""
    groups = [group for group in re.split(r"(\[[^\]]*\])", item) if group]
    for group in groups:
        if group[0] != "[" and _LITERAL.fullmatch(group) is None:
            _refuse(text, group, "host names have letters, digits, - . _ and :")
    return groups


def _group_values(group: str, text: str) -> Iterator[str]:
    """The texts that one group stands for: itself, or each number in its brackets."""
    if group[0] != "[":
        yield group
        return
    for part in group[1:-1].split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            _refuse(text, group, f"{part!r} is neither a number nor a range such as 01-04")
        first, last = match["first"], match["last"] or match["first"]
        if int(last) < int(first):
            _refuse(text, group, f"the range {part} runs backwards")
        if int(last) - int(first) >= MAX_HOSTS:
            _refuse(text, group, f"the range {part} has more than {MAX_HOSTS} numbers")
        yield from (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))


def _refuse(text: str, part: str, why: str) -> NoReturn:
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    raise ClusterError(f"node list {shown!r}: at {part!r}: {why}")
