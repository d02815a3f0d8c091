"""The device on which val, predict and export compute."""

from __future__ import annotations

import torch

from hpc_yolo.core.errors import SpecError
from hpc_yolo.core.units import counted
from hpc_yolo.spec.device import read_device


def choose_device(requested: str) -> torch.device:
    """Return the device `requested`: `auto` (or nothing) is the first GPU if there is one, else the CPU.

    Raises:
        SpecError: `requested` is not a device, names several, or names a GPU that does not exist.
    """
    try:
        chosen = read_device(requested)
    except ValueError as error:
        raise SpecError(f"--device {requested}: {error}", hint="auto, cpu, or the number of a GPU") from None
    if chosen == "cpu" or (chosen == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if "," in chosen:
        raise SpecError(
            f"--device {requested}: one device is needed: auto, cpu, or the number of a GPU",
            hint="to use several GPUs, run several commands",
        )
    index = 0 if chosen == "auto" else int(chosen)
    if index >= torch.cuda.device_count():
        raise SpecError(
            f"--device {requested}: there is no GPU {index}; this process sees "
            f"{counted(torch.cuda.device_count(), 'GPU')}",
            hint="use --device cpu, or see nvidia-smi",
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
