"""CPU cores as text, and as the masks of srun's --cpu-bind."""

from __future__ import annotations

import re
from collections.abc import Sequence

CORES = re.compile(r"(?P<first>[0-9]{1,4})(?:-(?P<last>[0-9]{1,4}))?")


def parse_cores(text: str) -> list[int]:
    """Return the numbers of cores in `text`, such as 0-3,8.

    Raises:
        ValueError: it is not a list of cores.
    """
    cores: list[int] = []
    for part in text.split(","):
        found = CORES.fullmatch(part.strip())
        if found is None or int(found["last"] or found["first"]) < int(found["first"]):
            raise ValueError(f"{text!r} is not a list of CPU cores")
        cores += range(int(found["first"]), int(found["last"] or found["first"]) + 1)
    return cores


def mask_option(cores_of_tasks: Sequence[str]) -> str:
    """Return the value of --cpu-bind that binds each local task to its cores.

    Raises:
        ValueError: an item is not a list of cores.
    """
    masks = (sum(1 << core for core in set(parse_cores(cores))) for cores in cores_of_tasks)
    return "mask_cpu:" + ",".join(f"0x{mask:x}" for mask in masks)
