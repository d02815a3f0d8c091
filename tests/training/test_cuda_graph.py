"""Passes as CUDA graphs: the numbers of the model itself, gathered over steps too. Most of it needs a GPU."""

import pytest
import torch
from rank_programs import results_of_ranks

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import TrainingError
from hpc_yolo.distributed import World
from hpc_yolo.models import build_model
from hpc_yolo.models.layers import Conv, join_norm_silu
from hpc_yolo.training import cuda_graph
from hpc_yolo.training.cuda_graph import GraphedModel, capture

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
SIDE = 320


def built(name):
    torch.manual_seed(0)
    return build_model(name, 80).train().to(memory_format=torch.channels_last).cuda()


def graphed(model, dtype, warn=pytest.fail):
    world = World(ProcessInfo.from_env({}), torch.device("cuda", 0), ())
    return GraphedModel(model, model, dtype, world, warn).train()


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
        forward = graphed(model, dtype) if is_graphed else model
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
    forward = graphed(model, torch.bfloat16)
    add_gradients(forward, images_of(), torch.bfloat16)
    assert forward._passes is None and all(weights.grad is not None for weights in model.parameters())


@needs_gpu
def test_kernels_that_cannot_be_built_are_replaced_with_a_warning(monkeypatch):
    def fail(*_):
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr("hpc_yolo.models.layers.norm_silu", fail)
    model, warnings = built("yolov5n"), []
    add_gradients(graphed(model, torch.bfloat16, warnings.append), images_of(), torch.bfloat16)
    assert len(warnings) == 1 and "built no kernels (Failed to find C compiler.)" in warnings[0]
    assert not any(module.is_joined for module in model.modules() if isinstance(module, Conv))


# Each of two ranks on one GPU adds the gradients of batches of its own. Without graphs, and with them unless the second
# rank has no memory for them. It prints whether it had some; the largest difference, as a fraction, of the gradients of
# one batch and of three; and the sum of the latter.
RANKS = """
import json, sys
import torch
import torch.distributed as dist
from hpc_yolo.cluster.process import LOOPBACK, ProcessInfo
from hpc_yolo.distributed import World
from hpc_yolo.models import build_model
from hpc_yolo.models.layers import join_norm_silu
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.training import cuda_graph, gradient_buckets
from hpc_yolo.training.model import distribute

store, rank, fraction = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
cuda_graph.MEMORY_FRACTION, gradient_buckets.BUCKET_BYTES = fraction, 2**20
process = ProcessInfo(rank, rank, 0, 2, 2, 1, LOOPBACK, None, "torchrun")
world = World(process, torch.device("cuda", 0), ())
generator = torch.Generator().manual_seed(rank)
images = torch.rand(4, 3, 320, 320, generator=generator).cuda().to(memory_format=torch.channels_last)
found = []
for graphs in (False, True):
    torch.manual_seed(rank)  # distribute gives all ranks the weights of the first
    model = build_model("yolov5s", 80).train().to(memory_format=torch.channels_last).cuda()
    join_norm_silu(model)
    forward = distribute(model, TrainSpec(cuda_graphs=graphs), world, torch.bfloat16, print).train()
    for factor in (1.0, 0.5, 0.25):
        with torch.autocast("cuda", torch.bfloat16):
            levels = forward(images * factor)
        torch.stack([level.float().square().mean() for level in levels]).sum().backward()
        if factor == 1.0:
            found.append([weights.grad.clone() for weights in model.parameters()])
    found.append([weights.grad for weights in model.parameters()])


def difference(one, other):
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)) for a, b in zip(one, other, strict=True))


first, three, first_graphed, three_graphed = found
total = float(sum(gradient.double().abs().sum() for gradient in three_graphed))
is_graphed = forward._passes is not None
print(json.dumps([is_graphed, difference(first, first_graphed), difference(three, three_graphed), total]))
dist.destroy_process_group()
"""


@needs_gpu
@pytest.mark.parametrize(("fractions", "is_graphed"), [((1.0, 1.0), True), ((1.0, 0.0), False)])
def test_ranks_share_gradients_while_the_pass_goes_on(tmp_path, fractions, is_graphed):
    """A sum that began before its part of the pass had ended would have gradients of the step before."""
    rank, other = results_of_ranks(tmp_path, RANKS, [str(fraction) for fraction in fractions])
    assert rank == other, "bit by bit"
    assert rank[0] is is_graphed, "all ranks or none"
    assert rank[1] == 0 and rank[2] < 1e-5 and rank[3] > 0


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
