"""GPUs and number of tasks of a run on this machine."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

from hpc_yolo.core.errors import ClusterError
from hpc_yolo.core.units import counted
from hpc_yolo.spec.schema import ClusterSpec


def local_tasks(cluster: ClusterSpec, batch: int, num_gpus: int, num_cpus: int) -> tuple[int, int]:
    """Return (tasks, GPUs) of a run on this machine: as many as fit and divide the batch, one task per GPU."""
    uses_gpus = cluster.gpus_per_node > 0 and num_gpus > 0
    tasks = min(cluster.world_size, num_gpus if uses_gpus else num_cpus)
    while batch % tasks:
        tasks -= 1
    return tasks, tasks if uses_gpus else 0


def chosen_gpus(device: str, visible: tuple[str, ...]) -> tuple[str, ...]:
    """Return those `visible` GPUs that `train.device` selects by index; all of them for auto, none for cpu.

    Raises:
        ClusterError: an index is out of range.
    """
    if device in ("auto", "cpu"):
        return visible if device == "auto" else ()
    indices = [int(number) for number in device.split(",")]
    if max(indices) >= len(visible):
        raise ClusterError(
            f"train.device: {device}: no GPU {max(indices)}, this machine has {counted(len(visible), 'GPU')}",
            hint="indices begin at 0; see nvidia-smi, or set train.device to auto",
        )
    return tuple(visible[index] for index in indices)


def visible_gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the NVIDIA GPUs of this machine that CUDA_VISIBLE_DEVICES selects, by its names, without importing torch.

    The list is parsed as CUDA does: it ends at the first entry that is not a device (-1, none, NoDevFiles), a repeated
    entry selects no device at all, and of several MIG slices a process uses the first.
    """
    cards = Path("/proc/driver/nvidia/gpus")
    num_cards = len(list(cards.iterdir())) if cards.is_dir() else None
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return tuple(map(str, range(num_cards or 0)))
    devices = list(itertools.takewhile(_is_device, map(str.strip, listed.split(","))))
    devices = [str(int(device)) if device.isdigit() else device for device in devices]
    if len(set(devices)) < len(devices):
        return ()
    if devices and devices[0].startswith("MIG-"):
        return (devices[0],)
    existing = itertools.takewhile(
        lambda name: num_cards is None or not name.isdigit() or int(name) < num_cards, devices
    )
    return tuple(existing)


def _is_device(name: str) -> bool:
    return (name.isascii() and name.isdigit()) or name.startswith(("GPU-", "MIG-"))
