"""Forward and backward of a model as CUDA graphs.

A step of a small model launches over a thousand kernels, and on a fast GPU the host needs longer for the launches than
the GPU for the work. A graph is launched as a whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from hpc_yolo.core.errors import TrainingError
from hpc_yolo.models.layers import join_norm_silu
from hpc_yolo.training.nan_guard import Statistics

WARMUP_PASSES = 3  # before a capture, so that libraries have chosen their algorithms and allocated their memory
MEMORY_FRACTION = 0.4  # of the GPU, above which nothing is captured: evaluations need memory beside that of the graphs


class GraphedModel(nn.Module):
    """Runs the passes of `model` in training as graphs, captured at the first batch; batches of other shapes as usual.

    Graphs or not, the kernels are the same. Parameters and buffers of the model must be changed in place.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype | None, warn: Callable[[str], None]) -> None:
        """Initialize; `dtype` is the type of mixed precision, None for none."""
        super().__init__()
        self.model = model
        self._dtype = dtype
        self._warn = warn
        self._passes: CapturedPasses | None = None
        self._is_captured = False
        join_norm_silu(model)

    def forward(self, images: torch.Tensor) -> Any:
        """Return the outputs of the model. They are overwritten by the next batch."""
        if self.training and not self._is_captured:
            self._is_captured, self._passes = True, captured_passes(self.model, images, self._dtype, self._warn)
        if not self.training or self._passes is None or images.shape != self._passes.images.shape:
            return self.model(images)
        return list(_Replay.apply(self._passes.anchor, images, self._passes))

    def release(self) -> None:
        """Free the memory of the graphs."""
        self._passes = None


def captured_passes(
    model: nn.Module, images: torch.Tensor, dtype: torch.dtype | None, warn: Callable[[str], None]
) -> CapturedPasses | None:
    """Return the passes of `model` for batches like `images`; None if they need much of the memory.

    Raises:
        torch.OutOfMemoryError: one pass does not fit into the memory.
        TrainingError: the passes cannot be captured.
    """
    passes, statistics = CapturedPasses(model, images, dtype), Statistics(model)
    try:
        with torch.enable_grad(), torch.autocast("cuda", dtype, enabled=dtype is not None, cache_enabled=False):
            warm_up(passes, model, warn)
            if torch.cuda.memory_reserved() > MEMORY_FRACTION * torch.cuda.mem_get_info()[1]:
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

    def __init__(self, model: nn.Module, images: torch.Tensor, dtype: torch.dtype | None) -> None:
        self.images = images.to(dtype or images.dtype, memory_format=torch.channels_last, copy=True)
        self.anchor = torch.zeros((), device=images.device, requires_grad=True)
        self._model = model
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # Other leaves with the same memory: autograd may know those of the model on another stream, and wait for it.
        self._leaves = {name: one.detach().requires_grad_(one.requires_grad) for name, one in model.named_parameters()}
        self._trained = [leaf for leaf in self._leaves.values() if leaf.requires_grad]
        # Not in the memory of the graphs, which the next forward pass overwrites.
        self._gradients = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._sums: list[torch.Tensor] = []
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()

    def warm_up(self) -> None:
        """Run both passes on the stream on which they are captured."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(WARMUP_PASSES):
                outputs = functional_call(self._model, self._leaves, self.images)
                self.output_gradients = [torch.zeros_like(output) for output in outputs]
                found = torch.autograd.grad(outputs, self._trained, self.output_gradients, allow_unused=True)
        torch.cuda.current_stream().wait_stream(self._stream)
        is_used = [gradient is not None for gradient in found]  # nothing may read the output of a layer
        self._parameters = list(itertools.compress(self._parameters, is_used))
        self._trained = list(itertools.compress(self._trained, is_used))
        self._gradients = list(itertools.compress(self._gradients, is_used))

    def capture(self) -> None:
        """Capture both passes."""
        # Threads that pin batches and copy checkpoints go on meanwhile, hence thread_local.
        with torch.cuda.graph(self._forward, None, self._stream, "thread_local"):
            outputs = functional_call(self._model, self._leaves, self.images)
        with torch.cuda.graph(self._backward, self._forward.pool(), self._stream, "thread_local"):
            found = torch.autograd.grad(outputs, self._trained, self.output_gradients)
            torch._foreach_copy_(self._gradients, found)
        self.outputs = [output.detach() for output in outputs]

    def run_forward(self, images: torch.Tensor) -> None:
        """Compute the outputs of `images`."""
        self.images.copy_(images)
        self._forward.replay()

    def run_backward(self, output_gradients: Sequence[torch.Tensor]) -> None:
        """Add the gradients to those of the parameters, in whose memory the graph writes them."""
        torch._foreach_copy_(self.output_gradients, list(output_gradients))
        gathered = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if gathered:
            self._sums = self._sums or [torch.empty_like(gradient) for gradient in self._gradients]
            torch._foreach_copy_(self._sums, gathered)  # of the steps before
        self._backward.replay()
        if gathered:
            torch._foreach_add_(self._gradients, self._sums)
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient


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
