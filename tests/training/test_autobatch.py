"""The batch that fills a GPU, from a linear fit of the memory of small batches."""

import weakref
from types import SimpleNamespace

import pytest
import torch

from hpc_yolo.training.autobatch import batch_for, out_of_memory

GIB = 2**30


def linear(start_gib, slope_gib, limit=10**9):
    """Return a linear function of the batch for used memory, which fails above `limit` images."""
    return lambda batch: None if batch > limit else int((start_gib + slope_gib * batch) * GIB)


@pytest.mark.parametrize(
    ("free_gib", "measure", "expected"),
    [
        (40.5, linear(1, 0.5), 62),  # 0.8 x 40.5 = 32.4 > 1 + 0.5 x 62
        (10.2, linear(2, 0.5), 12),
        (5, linear(1, 0.5, limit=4), 6),  # between four, which fitted, and eight, which did not
        (100, linear(1, 0.5, limit=8), 8),  # sixteen did not fit, whatever the fit gives
        (3, linear(1, 1.5, limit=1), 1),
        (3, linear(1, 1.5, limit=0), 1),  # not even one fits: training fails with its own message
        (1000, linear(1, 0.1), None),  # over a thousand is no sensible batch
        (2, linear(4, 0.5), None),  # all tried batches fitted, so that the free memory was reported wrongly
        (40, lambda batch: 2 * GIB, None),  # a fit without a slope gives no batch
    ],
)
def test_batch_fills_80_percent_of_free_memory(free_gib, measure, expected):
    assert batch_for(int(free_gib * GIB), measure) == expected


@pytest.mark.parametrize(
    ("fitting", "advice"),
    [
        (3, "set train.batch to 6, for 3 images a rank fit, measured just now; or take more GPUs"),
        (9, "9 images fit, measured just now: does another process use this GPU (nvidia-smi)?"),
        (None, "set train.batch lower; or take more GPUs"),
    ],
)
def test_out_of_memory_error_suggests_batch_that_fits(monkeypatch, fitting, advice):
    """Two ranks with four images each; the tensors of the step are freed before the measurement."""
    held: list[weakref.ref] = []

    def measure(*_: object) -> int | None:
        assert held[0]() is None
        return fitting

    def step() -> None:
        tensor = torch.zeros(1)
        held.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("hpc_yolo.training.autobatch.largest_batch", measure)
    train = SimpleNamespace(multi_scale=False, imgsz=640, precision="fp32")
    context = SimpleNamespace(
        train=train,
        schedule=SimpleNamespace(batch=8),
        position=SimpleNamespace(step=7),
        trained=None,
        updater=SimpleNamespace(optimizer=SimpleNamespace(zero_grad=lambda: None)),
        model=None,
    )
    try:
        step()
    except torch.OutOfMemoryError as error:
        error_of_rank = out_of_memory(error, context, SimpleNamespace(size=2, rank=1, device=torch.device("cpu")))
    assert error_of_rank.message == "the GPU of rank 1 ran out of memory after step 7, with 4 images of 640 pixels"
    assert advice in error_of_rank.hint
