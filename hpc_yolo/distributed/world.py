"""This rank's view of all ranks, and the collectives: sums, numbers, arrays, requests to stop.

Two groups exist. The default one moves gradients (NCCL on GPUs, gloo without). The control group is always gloo: stop
agreement, evaluation results and numbers of each rank go through it, so that none of them waits for the device.
Nothing is pickled.
"""

from __future__ import annotations

import io
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store  # torch.distributed's own, with types

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.runs.events import RankLocation

RECONNECT_S = 20.0  # to a server that has responded before


@dataclass(frozen=True)
class World:
    """This rank's view of all ranks. With a single rank every operation is the identity.

    Attributes:
        ranks: host and process of every rank.
        neighbours: when the process of each other rank on this machine started, in ticks since boot, by rank.
    """

    process: ProcessInfo
    device: torch.device
    ranks: tuple[RankLocation, ...]
    control: dist.ProcessGroup | None = None
    store: Store | None = None
    neighbours: Mapping[int, int] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Rank of this process."""
        return self.process.rank

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self.process.world_size

    @property
    def is_main(self) -> bool:
        """True on the rank that prints and writes."""
        return self.process.rank == 0

    def sum_over_ranks(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of `tensor` over all ranks, on its device; not differentiable."""
        if self.size == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def broadcast(self, tensors: Sequence[torch.Tensor]) -> None:
        """Overwrite `tensors`, all of one type, with those of rank 0, in one operation."""
        if self.size > 1:
            joined = torch.cat([tensor.flatten() for tensor in tensors])
            dist.broadcast(joined, src=0)
            parts = torch.split(joined, [tensor.numel() for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def second_store(self, prefix: str) -> Store | None:
        """Return the store of this attempt over a new connection, its keys under `prefix`; None for a single rank.

        An operation on a store blocks all others over the same connection.

        Raises:
            torch.distributed.DistError: its server is gone.
        """
        if self.store is None:
            return None
        timeout = self.store.timeout  # type: ignore[attr-defined]  # not in the stubs of torch
        self.store.set_timeout(timedelta(seconds=RECONNECT_S))  # which `clone` takes as the limit of its retries
        try:
            second = self.store.clone()
        finally:
            self.store.set_timeout(timeout)
        second.set_timeout(timeout)
        return PrefixStore(prefix, second)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier(group=self.control)

    def gather_numbers(self, numbers: Sequence[float]) -> list[list[float]]:
        """Return the `numbers` of every rank, equally many, by rank."""
        if self.size == 1:
            return [list(numbers)]
        mine = torch.tensor(numbers, dtype=torch.float64)
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(everyone, mine, group=self.control)
        return [tensor.tolist() for tensor in everyone]

    def gather_arrays(self, arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Return the `arrays` (any shapes, no objects) of every rank, by rank, on every rank."""
        if self.size == 1:
            return [arrays]
        packed = io.BytesIO()
        np.savez(packed, allow_pickle=False, **arrays)
        mine = torch.frombuffer(bytearray(packed.getvalue()), dtype=torch.uint8)
        sizes = [int(size) for (size,) in self.gather_numbers([len(mine)])]
        everyone = [torch.zeros(max(sizes), dtype=torch.uint8) for _ in range(self.size)]
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(mine)] = mine
        dist.all_gather(everyone, padded, group=self.control)
        return [_unpack(tensor[:size]) for tensor, size in zip(everyone, sizes, strict=True)]


class StepRequest(NamedTuple):
    """Request of one rank, or of all ranks together, for the end of a step."""

    stop_signal: signal.Signals | None = None
    is_save_due: bool = False


class StopAgreement:
    """Agrees on the requests of all ranks, so that all of them stop or save after the same step.

    The reduction started at one step is read at the next: by then it is complete, and no rank has waited for it.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    def ask(self, request: StepRequest) -> StepRequest:
        """Send this rank's `request`; return what the ranks requested one step ago, of signals the highest."""
        if self._world.size == 1:
            return request
        agreed = self.settle()
        sent = torch.tensor([request.stop_signal or 0, request.is_save_due], dtype=torch.int64)
        work = dist.all_reduce(sent, op=dist.ReduceOp.MAX, group=self._world.control, async_op=True)
        assert work is not None
        self._pending = (work, sent)
        return agreed

    def settle(self) -> StepRequest:
        """Wait for the reduction under way, if any, and return its result."""
        if self._pending is None:
            return StepRequest()
        work, reduced = self._pending
        work.wait()
        self._pending = None
        number, is_save_due = reduced.tolist()
        return StepRequest(signal.Signals(number) if number else None, bool(is_save_due))


def _unpack(packed: torch.Tensor) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(packed.numpy().tobytes()), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
