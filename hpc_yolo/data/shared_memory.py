"""Space in /dev/shm, through which loader workers pass batches to their rank.

Containers often have 64 MB of it. When it is full a worker cannot pass its batch, and its rank would wait for ever.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hpc_yolo.core.errors import LostProcessError, TrainingError

DIRECTORY = Path("/dev/shm")
PREFETCH = 2  # batches that each worker of torch's loader makes ahead
LABELS_BYTES = 65536  # of a batch, with its indices
IN_USE = 2  # batches that a rank has: the one it computes on, and the next
# With less than both free, /dev/shm is the likely cause of a worker's death.
NEARLY_FULL_FRACTION, NEARLY_FULL_BYTES = 0.1, 2**30
HINT = (
    "take fewer loader workers (train.workers or --workers; 0: none), a smaller batch, or a container with more of it: "
    "docker and podman run --shm-size=8g or --ipc=host, apptainer --bind /dev/shm; see df -h /dev/shm"
)


@dataclass(frozen=True)
class Room:
    """The state of /dev/shm in this process. `identity` distinguishes the file systems of a node."""

    free_bytes: int
    total_bytes: int
    identity: int

    @property
    def text(self) -> str:
        """The state for a message."""
        if not self.total_bytes:
            return "there is no /dev/shm"
        return f"/dev/shm has {size_text(self.free_bytes)} of {size_text(self.total_bytes)} free"


@dataclass(frozen=True)
class Demand:
    """The most space that the loader workers of a rank need: `num_batches` at once, each of `batch_bytes`."""

    batch_bytes: int
    num_batches: int

    @property
    def total_bytes(self) -> int:
        """The bytes of all batches at once."""
        return self.batch_bytes * self.num_batches


@dataclass(frozen=True)
class RankRoom:
    """The demand of one rank, and the state of its /dev/shm."""

    node_rank: int
    host: str
    demand: Demand
    room: Room


def shared_room() -> Room:
    """Return the state of /dev/shm; no space where it does not exist."""
    try:
        found, stat = os.statvfs(DIRECTORY), DIRECTORY.stat()
    except OSError:
        return Room(0, 0, 0)
    return Room(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize, stat.st_dev)


def demand_of(batch_bytes: int, num_batches: int, workers: int) -> Demand:
    """Return the demand of `workers` that load `num_batches` batches of at most `batch_bytes` of images in an epoch."""
    at_once = min(num_batches, workers * PREFETCH + IN_USE) if workers else 0
    return Demand(batch_bytes + LABELS_BYTES, at_once)


def require_room(ranks: Sequence[RankRoom]) -> None:
    """Refuse loader workers whose batches do not fit into /dev/shm of their node, which its ranks may share.

    Raises:
        TrainingError: naming the node, the needed and the free bytes.
    """
    shared: dict[tuple[int, int], list[RankRoom]] = {}
    for rank in ranks:
        if rank.demand.num_batches:
            shared.setdefault((rank.node_rank, rank.room.identity), []).append(rank)
    for together in shared.values():
        needed_bytes = sum(rank.demand.total_bytes for rank in together)
        room = min((rank.room for rank in together), key=lambda room: room.free_bytes)
        if needed_bytes > room.free_bytes:
            largest = max((rank.demand for rank in together), key=lambda demand: demand.total_bytes)
            batches = f"{largest.num_batches} batch{'' if largest.num_batches == 1 else 'es'}"
            each = f" for each of {len(together)} ranks" if len(together) > 1 else ""
            raise TrainingError(
                f"{together[0].host}: {room.text}, and loader workers pass batches through it: they need "
                f"{size_text(needed_bytes)}, {batches} of {size_text(largest.batch_bytes)}{each}",
                hint=HINT,
            )


def batch_memory(num_bytes: int) -> torch.Tensor:
    """Return uint8 (num_bytes,) to be filled; in a loader worker in shared memory, so that passing it copies nothing.

    Raises:
        LostProcessError: there is no space.
    """
    if torch.utils.data.get_worker_info() is None:
        return torch.empty(num_bytes, dtype=torch.uint8)
    with _space_for(num_bytes):
        return shared_bytes(num_bytes)


def shared_bytes(num_bytes: int) -> torch.Tensor:
    """Return uint8 (num_bytes,) in shared memory.

    Raises:
        RuntimeError: there is no space.
    """
    storage = torch.UntypedStorage._new_shared(num_bytes)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def into_shared_memory(tensors: Sequence[torch.Tensor]) -> None:
    """Move what is not there yet of a batch into shared memory, in place, if this process is a loader worker.

    torch itself would do so in a thread whose errors are lost.

    Raises:
        LostProcessError: there is no space.
    """
    if torch.utils.data.get_worker_info() is None:
        return
    with _space_for(sum(tensor.numel() * tensor.element_size() for tensor in tensors)):
        for tensor in tensors:
            if tensor.numel():  # an empty tensor needs no memory
                tensor.share_memory_()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _space_for(needed_bytes: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            f"a loader worker cannot pass its batch of {size_text(needed_bytes)}: {shared_room().text} "
            f"({str(error).partition('>: ')[2] or error})",
            hint=HINT,
        ) from error


def explain_lost_worker(error: Exception) -> str | None:
    """Return an explanation if /dev/shm may have caused the death of a loader worker that torch reports, else None."""
    room = shared_room()
    is_full = room.free_bytes <= min(room.total_bytes * NEARLY_FULL_FRACTION, NEARLY_FULL_BYTES)
    if "Bus error" in str(error) or is_full:
        return f"through which it passes batches: {room.text} now"
    return None


def size_text(num_bytes: float) -> str:
    """Return `num_bytes` with a unit, such as 353 MiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if num_bytes < 1024 or unit == "GiB":
            break
        num_bytes /= 1024
    return f"{num_bytes:.0f} {unit}" if num_bytes >= 10 or unit == "bytes" else f"{num_bytes:.1f} {unit}"
