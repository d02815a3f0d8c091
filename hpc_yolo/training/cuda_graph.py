"""Forward and backward of a model as CUDA graphs.

A step of a small model launches over a thousand kernels, and on a fast GPU the host needs longer for the launches than
the GPU for the work. A graph is launched as a whole.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.func import functional_call

from hpc_yolo.core.errors import TrainingError
from hpc_yolo.distributed import World
from hpc_yolo.models.layers import join_norm_silu
from hpc_yolo.training.gradient_buckets import GradientBuckets
from hpc_yolo.training.nan_guard import Statistics

Key = TypeVar("Key", bound=Hashable)

WARMUP_PASSES = 3  # before a capture, so that libraries have chosen their algorithms and allocated their memory
MEMORY_FRACTION = 0.4  # of the GPU, above which nothing is captured: evaluations need memory beside that of the graphs


class GraphedModel(nn.Module):
    """Runs the passes of a model in training as graphs, captured at the first batch; batches of other shapes as usual.

    Backward passes average the gradients over the ranks. Graphs or not, the kernels are the same. Parameters and
    buffers of the model must be changed in place.
    """

    def __init__(
        self, model: nn.Module, eager: nn.Module, dtype: torch.dtype | None, world: World, warn: Callable[[str], None]
    ) -> None:
        """Initialize.

        Args:
            eager: `model`, or for several ranks DistributedDataParallel around it: runs what graphs do not.
            dtype: the type of mixed precision, None for none.
            world: all ranks, which make the same calls.
        """
        super().__init__()
        self.model = model
        self.eager = eager
        self._dtype = dtype
        self._world = world
        self._warn = warn
        self._passes: CapturedPasses | None = None
        self._is_captured = False

    def forward(self, images: torch.Tensor) -> Any:
        """Return the outputs of the model. They are overwritten by the next batch."""
        if self.training and not self._is_captured:
            self._is_captured = True
            self._passes = captured_passes(self.model, images, self._dtype, self._world, self._warn)
        if not self.training or self._passes is None or images.shape != self._passes.images.shape:
            return self.eager(images)
        return list(_Replay.apply(self._passes.anchor, images, self._passes))

    def release(self) -> None:
        """Free the memory of the graphs."""
        self._passes = None


def captured_passes(
    model: nn.Module, images: torch.Tensor, dtype: torch.dtype | None, world: World, warn: Callable[[str], None]
) -> CapturedPasses | None:
    """Return the passes of `model` for batches like `images`; None if they need much of the memory on any rank.

    Raises:
        torch.OutOfMemoryError: one pass does not fit into the memory.
        TrainingError: the passes cannot be captured.
    """
    join_norm_silu(model)
    passes, statistics = CapturedPasses(model, images, dtype, world.size), Statistics(model)
    try:
        with torch.enable_grad(), torch.autocast("cuda", dtype, enabled=dtype is not None, cache_enabled=False):
            warm_up(passes, model, warn)
            takes_much = torch.cuda.memory_reserved() > MEMORY_FRACTION * torch.cuda.mem_get_info()[1]
            if any(much for (much,) in world.gather_numbers([takes_much])):
                torch.cuda.empty_cache()  # of the stream of the passes, where nothing runs any more
                return None
            capture(passes)
    finally:
        statistics.restore()
    return passes


def warm_up(passes: CapturedPasses, model: nn.Module, warn: Callable[[str], None]) -> None:
    """Run the passes; with normalisation and activation apart if their common kernels cannot be built here."""
    try:
        passes.warm_up()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of a compiler that is missing, or a cache that cannot be written; else it comes again
        join_norm_silu(model, joined=False)
        passes.warm_up()
        warn(
            "training is slower than it could be: Triton, which needs a C compiler, built no kernels "
            f"({first_line(error)})"
        )


def first_line(error: Exception) -> str:
    """Return the first line of the message of `error`, or its type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def capture(passes: CapturedPasses) -> None:
    """Capture the passes; errors are as in `captured_passes`."""
    try:
        passes.capture()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if isinstance(error.__context__, torch.OutOfMemoryError):  # which ended the capture, and that is an error too
            raise error.__context__ from None
        raise TrainingError(
            f"the passes of the model cannot be captured as CUDA graphs: {first_line(error)}",
            hint="set train.cuda_graphs: false",
        ) from error


class CapturedPasses:
    """The graphs of both passes with the memory that they read and write.

    Attributes:
        images: the batch that the forward pass reads.
        anchor: a number that requires a gradient, so that autograd calls the backward pass.
    """

    def __init__(self, model: nn.Module, images: torch.Tensor, dtype: torch.dtype | None, num_ranks: int) -> None:
        self.images = images.to(dtype or images.dtype, memory_format=torch.channels_last, copy=True)
        self.anchor = torch.zeros((), device=images.device, requires_grad=True)
        self._model = model
        self._num_ranks = num_ranks
        # Other leaves with the same memory: autograd may know those of the model on another stream, and wait for it.
        self._leaves = {name: one.detach().requires_grad_(one.requires_grad) for name, one in model.named_parameters()}
        self._sums: list[torch.Tensor] = []
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()

    def warm_up(self) -> None:
        """Run both passes on the stream on which they are captured."""
        trained = {name: leaf for name, leaf in self._leaves.items() if leaf.requires_grad}
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(WARMUP_PASSES):
                reached: dict[str, torch.Tensor] = {}
                outputs = functional_call(self._model, self._leaves, self.images)
                self.output_gradients = [torch.zeros_like(output) for output in outputs]
                with hooked(trained, reached.__setitem__):
                    torch.autograd.grad(outputs, list(trained.values()), self.output_gradients, allow_unused=True)
        torch.cuda.current_stream().wait_stream(self._stream)
        # Without those of a layer whose output nothing reads.
        self._trained = {name: trained[name] for name in reached}
        self._parameters = [self._model.get_parameter(name) for name in reached]
        self._buckets = GradientBuckets(self._parameters, self._num_ranks)

    def capture(self) -> None:
        """Capture both passes."""
        # Threads that pin batches and copy checkpoints go on meanwhile, hence thread_local.
        with torch.cuda.graph(self._forward, None, self._stream, "thread_local"):
            outputs = functional_call(self._model, self._leaves, self.images)
        numbered = dict(enumerate(self._trained.values()))
        with (
            torch.cuda.graph(self._backward, self._forward.pool(), self._stream, "thread_local"),
            hooked(numbered, self._buckets.take),
        ):
            torch.autograd.grad(outputs, list(numbered.values()), self.output_gradients)
        self.outputs = [output.detach() for output in outputs]

    def run_forward(self, images: torch.Tensor) -> None:
        """Compute the outputs of `images`."""
        self.images.copy_(images)
        self._forward.replay()

    def run_backward(self, output_gradients: Sequence[torch.Tensor]) -> None:
        """Add the gradients, averaged over the ranks, to those of the parameters, whose memory is that of the graph."""
        torch._foreach_copy_(self.output_gradients, list(output_gradients))
        gathered = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if gathered:
            self._sums = self._sums or [torch.empty_like(gradient) for gradient in self._buckets.gradients]
            torch._foreach_copy_(self._sums, gathered)  # of the steps before
        self._backward.replay()
        self._buckets.average(self._stream)
        if gathered:
            torch._foreach_add_(self._buckets.gradients, self._sums)
        for parameter, gradient in zip(self._parameters, self._buckets.gradients, strict=True):
            parameter.grad = gradient


@contextlib.contextmanager
def hooked(leaves: Mapping[Key, torch.Tensor], take: Callable[[Key, torch.Tensor], None]) -> Iterator[None]:
    """Call `take` with the key of each of `leaves` and its gradient, in the order of backward passes in the block."""
    hooks = [leaf.register_hook(functools.partial(take, key)) for key, leaf in leaves.items()]  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, _anchor: torch.Tensor, images: torch.Tensor, passes: CapturedPasses) -> Any:
        ctx.passes = passes
        passes.run_forward(images)
        return tuple(output.detach() for output in passes.outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        ctx.passes.run_backward(gradients)
        return None, None, None
