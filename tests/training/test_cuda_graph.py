"""Passes as CUDA graphs: the numbers of the model itself, gathered over steps too. Most of it needs a GPU."""

import pytest
import torch

from hpc_yolo.core.errors import TrainingError
from hpc_yolo.models import build_model
from hpc_yolo.models.layers import Conv, join_norm_silu
from hpc_yolo.training import cuda_graph
from hpc_yolo.training.cuda_graph import GraphedModel, capture

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
SIDE = 320


def built(name):
    torch.manual_seed(0)
    return build_model(name, 80).train().to(memory_format=torch.channels_last).cuda()


def images_of(batch=4, side=SIDE):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(batch, 3, side, side, generator=generator)
    return images.cuda().to(memory_format=torch.channels_last)


def add_gradients(forward, images, dtype):
    with torch.autocast("cuda", dtype, enabled=dtype is not None):
        levels = forward(images)
    torch.stack([level.float().square().mean() for level in levels]).sum().backward()


@needs_gpu
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("yolov5s", torch.bfloat16), ("yolov5n", torch.float16), ("yolov5n-af", torch.bfloat16), ("yolov5n", None)],
)
def test_gradients_and_statistics_are_those_of_the_model(name, dtype):
    """Gathered ones too: the memory of a graph is overwritten by the next forward pass."""
    found = []
    for is_graphed in (False, True):
        model, images = built(name), images_of()
        join_norm_silu(model)
        forward = GraphedModel(model, dtype, pytest.fail).train() if is_graphed else model
        for factor in (1.0, 0.5, 0.25):
            add_gradients(forward, images * factor, dtype)
        gathered = [weights.grad.clone() for weights in model.parameters()]
        model.zero_grad()
        add_gradients(forward, images_of(2), dtype)  # of another shape
        add_gradients(forward, images, dtype)
        found.append([*gathered, *(weights.grad for weights in model.parameters()), *model.buffers()])
        assert not is_graphed or forward._passes is not None
    differences = [
        float((one - other).abs().max() / one.abs().max().clamp(min=1e-30)) for one, other in zip(*found, strict=True)
    ]
    assert max(differences) <= (0 if dtype is not None else 1e-5)


@needs_gpu
def test_model_that_takes_much_memory_runs_without_graphs(monkeypatch):
    monkeypatch.setattr(cuda_graph, "MEMORY_FRACTION", 0.0)
    model = built("yolov5n")
    forward = GraphedModel(model, torch.bfloat16, pytest.fail).train()
    add_gradients(forward, images_of(), torch.bfloat16)
    assert forward._passes is None and all(weights.grad is not None for weights in model.parameters())


@needs_gpu
def test_kernels_that_cannot_be_built_are_replaced_with_a_warning(monkeypatch):
    def fail(*_):
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr("hpc_yolo.models.layers.norm_silu", fail)
    model, warnings = built("yolov5n"), []
    add_gradients(GraphedModel(model, torch.bfloat16, warnings.append).train(), images_of(), torch.bfloat16)
    assert len(warnings) == 1 and "built no kernels (Failed to find C compiler.)" in warnings[0]
    assert not any(module.is_joined for module in model.modules() if isinstance(module, Conv))


class FailedPasses:
    """Passes whose capture is ended by an error, which torch reports by another one."""

    def __init__(self, error):
        self.error = error

    def capture(self):
        try:
            raise self.error
        finally:
            raise RuntimeError("operation failed due to a previous error during capture\nmore of it")


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (torch.OutOfMemoryError("no memory"), torch.OutOfMemoryError, "no memory"),
        (
            ValueError("x"),
            TrainingError,
            "graphs: operation failed due to .* capture\n  hint: set train.cuda_graphs: false$",
        ),
    ],
    ids=["out of memory", "other"],
)
def test_failed_capture_is_reported(error, expected, words):
    """A lack of memory has advice of its own; of other errors people can only leave out the graphs."""
    with pytest.raises(expected, match=words):
        capture(FailedPasses(error))
