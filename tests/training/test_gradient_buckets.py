"""Gradients in pieces of memory: as large as wanted, and each gradient like its parameter."""

import torch
from torch import nn

from hpc_yolo.models import build_model
from hpc_yolo.training import gradient_buckets
from hpc_yolo.training.gradient_buckets import GradientBuckets, parts_of


def test_parts_are_large_and_hold_every_parameter_in_order(monkeypatch):
    """Small messages do not reach the bandwidth of a network, and a single one begins after the pass."""
    monkeypatch.setattr(gradient_buckets, "BUCKET_BYTES", 2**20)
    parameters = list(build_model("yolov5n", 80).parameters())
    parts = list(parts_of(parameters))
    sizes = [sum(parameter.numel() for parameter in part) * 4 for part in parts]
    assert [id(one) for part in parts for one in part] == [id(one) for one in parameters]
    assert len(parts) > 4 and all(size > 2**20 - 2**16 for size in sizes[:-1])
    assert list(parts_of([])) == []


def test_gradients_have_the_layout_of_their_parameters_and_share_no_number(monkeypatch):
    """Optimisers are slow where a gradient has other strides than its parameter, and kernels where it is unaligned."""
    monkeypatch.setattr(gradient_buckets, "BUCKET_BYTES", 500)
    parameters = [*nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last).parameters(), *nn.Linear(7, 9).parameters()]
    buckets = GradientBuckets(parameters, num_ranks=1)
    assert [(one.shape, one.stride()) for one in buckets.gradients] == [(one.shape, one.stride()) for one in parameters]
    assert all(one.data_ptr() % 16 == 0 for one in buckets.gradients)
    for number, gradient in enumerate(buckets.gradients, start=1):
        gradient.fill_(number)
    for number, gradient in enumerate(buckets.gradients, start=1):
        assert (gradient == number).all()
