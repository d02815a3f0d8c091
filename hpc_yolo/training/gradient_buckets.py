"""Gradients in a few pieces of memory, each averaged over the ranks once a captured backward pass has filled it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

BUCKET_BYTES = 25 * 2**20  # much for one message, and little beside all gradients: the first is sent early
ALIGNMENT = 64  # numbers: gradients begin where a kernel reads or writes several at once


class GradientBuckets:
    """Memory for the gradients of parameters, outside of the graphs, and the sums over ranks.

    Attributes:
        gradients: of the parameters, in their order and with their strides.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], num_ranks: int) -> None:
        """Initialize; `parameters`, of one type, are in the order in which the backward pass reaches them."""
        self._num_ranks = num_ranks
        self._buckets = [_Bucket(part) for part in parts_of(parameters)]
        self._places = [(bucket, number) for bucket in self._buckets for number in range(len(bucket.gradients))]
        self.gradients = [gradient for bucket in self._buckets for gradient in bucket.gradients]

    def take(self, number: int, gradient: torch.Tensor) -> None:
        """Take the `gradient` of a parameter, while the pass is captured."""
        bucket, place = self._places[number]
        bucket.take(place, gradient)

    def average(self, stream: torch.cuda.Stream) -> None:
        """Average the gradients of the pass that was launched last over the ranks; `stream` is to be a free one.

        Over NCCL the host does not wait, and what was filled is summed while the pass goes on.
        """
        if self._num_ranks == 1:
            return
        sums = []
        with torch.cuda.stream(stream):
            for bucket in self._buckets:
                stream.wait_event(bucket.filled)
                sums.append(dist.all_reduce(bucket.memory, async_op=True))
        for work in sums:
            assert work is not None
            work.wait()
        torch._foreach_div_([bucket.memory for bucket in self._buckets], self._num_ranks)


class _Bucket:
    """One piece of memory.

    Attributes:
        gradients: views of it.
        filled: recorded by each launch of the graph; it exists outside of the graph, hence external.
    """

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        starts = [0]
        for parameter in parameters:
            starts.append(starts[-1] + aligned(parameter.numel()))
        self.memory = torch.zeros(starts[-1], dtype=parameters[0].dtype, device=parameters[0].device)
        self.gradients = [
            self.memory[start:].as_strided(parameter.shape, parameter.stride())
            for start, parameter in zip(starts, parameters, strict=False)
        ]
        self.filled = torch.cuda.Event(external=True)  # type: ignore[no-untyped-call]
        self._taken: dict[int, torch.Tensor] = {}

    def take(self, place: int, gradient: torch.Tensor) -> None:
        self._taken[place] = gradient
        if len(self._taken) == len(self.gradients):  # all at once: few kernels
            torch._foreach_copy_([self.gradients[place] for place in self._taken], list(self._taken.values()))
            self.filled.record()
            self._taken.clear()


def parts_of(parameters: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Yield `parameters` in parts, each but the last of at least `BUCKET_BYTES`."""
    part: list[torch.Tensor] = []
    size_bytes = 0
    for parameter in parameters:
        part.append(parameter)
        size_bytes += aligned(parameter.numel()) * parameter.element_size()
        if size_bytes >= BUCKET_BYTES:
            yield part
            part, size_bytes = [], 0
    if part:
        yield part


def aligned(size: int) -> int:
    """Return `size` rounded up to a multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT
