"""Names of devices as other programs have them, in the form of `train.device`: auto, cpu, or numbers such as 0,1."""

from __future__ import annotations

import re

PREFIX = re.compile(r"(cuda|gpu):?(?=[0-9]|$)")
NUMBER = re.compile(r"[0-9]{1,4}")
RANGE = re.compile(r"([0-9]{1,3})-([0-9]{1,3})")
UNIQUE_ID = re.compile(r"(gpu|mig)-.+")
OTHER_DEVICES = frozenset(["dml", "hpu", "mps", "npu", "tpu", "vulkan", "xla", "xpu"])


def read_device(written: str) -> str:
    """Return `auto`, `cpu`, or numbers of GPUs with commas between them.

    Numbers may have spaces, brackets, `cuda:` or `gpu:` around them; `cuda` and `gpu` alone are the first GPU.

    Raises:
        ValueError: it is none of these; the message has the reason and the allowed values.
    """
    text = written.strip().strip("[]()").lower()
    if text in ("", "auto", "all"):
        return "auto"
    if text == "cpu":
        return "cpu"
    numbers = [_read_number(written, part) for part in re.split(r"[,\s]+", text) if part]
    for number in numbers:
        if numbers.count(number) > 1:
            raise ValueError(f"{written!r} names GPU {number} twice")
    return ",".join(map(str, numbers))


def _read_number(written: str, part: str) -> int:
    number = PREFIX.sub("", part, count=1) or "0"
    if NUMBER.fullmatch(number):
        return int(number)
    if found := RANGE.fullmatch(number):
        between = ",".join(map(str, range(int(found[1]), int(found[2]) + 1)))
        raise ValueError(f"{written!r}: a range is not read; write {between or 'each number'}")
    if UNIQUE_ID.fullmatch(part):
        raise ValueError(
            f"{written!r} is the unique id of a GPU: set CUDA_VISIBLE_DEVICES to it; GPUs are then numbered from 0"
        )
    if part == "cpu":
        raise ValueError(f"{written!r} mixes the CPU with GPUs")
    if part.partition(":")[0] in OTHER_DEVICES:
        raise ValueError(f"{written!r} is not supported: PyTorch's CUDA devices and the CPU are")
    if part == "-1":
        raise ValueError(f"{written!r}: an idle GPU is not searched for; write its number")
    raise ValueError(f"{written!r} is not a device")
