"""The one device that val, predict and export compute on."""

from __future__ import annotations

import re

import torch

from hpc_yolo.errors import SpecError


def choose_device(requested: str) -> torch.device:
    """`auto` (or nothing) takes the first GPU where there is one, `cpu` none, `1` or `cuda:1` the GPU of that number.

    Raises:
        SpecError: it is none of these, or the GPU is not there.
    """
    text = requested.strip().lower()
    if text == "cpu" or (text in ("", "auto") and not torch.cuda.is_available()):
        return torch.device("cpu")
    found = re.fullmatch(r"(?:cuda:)?([0-9]{1,3})", "0" if text in ("", "auto", "cuda") else text)
    if found is None:
        raise SpecError(
            f"--device {requested}: one device is needed: auto, cpu, or the number of a GPU",
            hint="for several GPUs start several commands" if "," in text else "for example --device 0",
        )
    index = int(found[1])
    if index >= torch.cuda.device_count():
        raise SpecError(
            f"--device {requested}: GPU {index} is not there; this process sees {torch.cuda.device_count()} GPUs",
            hint="take --device cpu, or see nvidia-smi",
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
