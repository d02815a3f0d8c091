"""The first host of Slurm's node lists, such as `gpu[01-04,07],login1`.

Read without Slurm, since containers have no scontrol. Zero padding is kept, and text may follow a bracket. Only the
first item of a list is read, so the time does not depend on the number of nodes.
"""

from __future__ import annotations

import re
from typing import NoReturn

from hpc_yolo.core.errors import ClusterError

_FIRST_ITEM = re.compile(r"(?:[^,\[\]]|\[[^\[\]]*\])*")  # up to the first comma outside brackets
_RANGE = re.compile(r"(?P<first>[0-9]+)(?:-(?P<last>[0-9]+))?")
_LITERAL = re.compile(r"[A-Za-z0-9._:-]*")


def first_host(text: str) -> str:
    """Return the first host in the node list `text`.

    Raises:
        ClusterError: the first item of `text` is malformed; the message names the faulty part.
    """
    nodes = text.strip()
    if not nodes:
        raise ClusterError("the node list is empty; expected something like gpu01 or gpu[01-04,07]")
    match = _FIRST_ITEM.match(nodes)
    item = match[0] if match else ""
    following = nodes[len(item) : len(item) + 1]
    if following == "[":
        _refuse(text, nodes[:80], "a bracket is not closed")
    if following == "]":
        _refuse(text, nodes[: len(item) + 1], "']' closes no bracket")
    if not item.strip():
        _refuse(text, ",", "a host name is missing before the comma")
    return "".join(_first_value(group, text) for group in re.split(r"(\[[^\]]*\])", item.strip()) if group)


def _first_value(group: str, text: str) -> str:
    """Return the first text that one group of an item expands to: the group itself, or the first number in brackets."""
    if group[0] != "[":
        if _LITERAL.fullmatch(group) is None:
            _refuse(text, group, "host names have letters, digits, - . _ and :")
        return group
    first_range = group[1:-1].split(",")[0]
    match = _RANGE.fullmatch(first_range)
    if match is None:
        _refuse(text, group, f"{first_range!r} is neither a number nor a range such as 01-04")
    if match["last"] and int(match["last"]) < int(match["first"]):
        _refuse(text, group, f"the range {first_range} is descending")
    return match["first"]


def _refuse(text: str, part: str, problem: str) -> NoReturn:
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    raise ClusterError(f"node list {shown!r}: at {part!r}: {problem}")
