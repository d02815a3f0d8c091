"""The device of a task, and deterministic operations."""

from __future__ import annotations

import os

import torch

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import TrainingError
from hpc_yolo.core.units import counted


def choose_device(requested: str, process: ProcessInfo) -> torch.device:
    """Return this task's device: `auto` takes a GPU where there is one, `cpu` none, "0,1" the local rank's in the list.

    Tasks that `submit` started on this machine see just the GPUs that were chosen for them, in the order of ranks. A
    task that sees fewer GPUs than its node has tasks has some of its own, often a single one or one slice of one, which
    the site has set; it takes one of those. `connected` refuses ranks that would share one.

    Raises:
        TrainingError: the requested GPU is not available.
    """
    if requested == "cpu" or (requested == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    num_visible, local_rank = torch.cuda.device_count(), process.local_rank
    is_narrowed = requested == "auto" or process.launcher == "submitit-local"
    index = local_rank if is_narrowed else _listed_index(requested, process)
    if 0 < num_visible < process.local_world_size:
        index %= num_visible
    if index >= num_visible:
        raise TrainingError(
            f"GPU {index} is not available: this task (local rank {local_rank}) sees {counted(num_visible, 'GPU')}",
            hint="ask for as many GPUs as tasks a node (cluster.gpus_per_node), or set train.device to cpu",
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def device_identity(device: torch.device) -> str | None:
    """Return an identity of the GPU `device`, or slice of one, that no other has; None where unknown."""
    if device.type != "cuda":
        return None
    identity = str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))
    return identity if identity.strip("0-") else None


def _listed_index(requested: str, process: ProcessInfo) -> int:
    numbers = requested.split(",")
    if process.local_rank >= len(numbers):
        raise TrainingError(
            f"train.device: {requested} names {counted(len(numbers), 'GPU')} for "
            f"{counted(process.local_world_size, 'task')} of a node",
            hint="name one for each task, or set train.device to auto",
        )
    return int(numbers[process.local_rank])


def make_deterministic() -> None:
    """Prefer deterministic operations; one that has no deterministic form warns and runs."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA's libraries start
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms() would import torch's compiler
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
