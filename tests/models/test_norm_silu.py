"""Normalisation joined with SiLU, by Triton's interpreter on the CPU, and the stem over blocks of pixels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hpc_yolo.models.layers import Conv, Upsample, join_norm_silu, stem_convolution
from hpc_yolo.models.norm_silu import norm_silu

# Shape, type and offset of the images, and the largest relative error.
CASES = [
    ((2, 3, 5, 4), "float32", 0, 1e-5),
    ((2, 32, 16, 16), "float32", 0, 1e-5),
    ((2, 48, 9, 7), "float32", 3, 1e-5),
    ((3, 200, 4, 4), "float32", 0, 1e-5),
    ((2, 8, 40, 40), "float32", 1000, 1e-3),  # squares of large numbers would leave no bits for the variance
    ((2, 32, 16, 16), "bfloat16", 0, 4e-3),
    ((2, 16, 8, 8), "float16", 0, 5e-4),
]

# In a process of its own: the interpreter is chosen when the kernels are imported. It prints the errors of each case.
AGAINST_SEPARATE_OPERATIONS = """
import copy, json, torch
from torch import nn
from torch.nn import functional
from hpc_yolo.models.norm_silu import norm_silu
from test_norm_silu import CASES

def errors_of(shape, dtype, offset):
    torch.manual_seed(0)
    images = (torch.randn(shape) * 2 + offset).to(dtype).to(memory_format=torch.channels_last)
    norm = nn.BatchNorm2d(shape[1], eps=1e-3, momentum=0.03)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    part = torch.randn(shape[0], 2 * shape[1], *shape[2:]).to(dtype).to(memory_format=torch.channels_last)[:, shape[1]:]
    gradients = {"alike": torch.randn(shape).to(dtype).to(memory_format=torch.channels_last)}
    gradients |= {"rows": torch.randn(shape), "part of a concatenation": part}
    gradients |= {"one number": torch.ones(()).expand(shape)}
    errors = {}
    for kind, gradient in gradients.items():
        exact, joined = copy.deepcopy(norm).double(), copy.deepcopy(norm)
        exact_input, joined_input = images.double().requires_grad_(), images.clone().requires_grad_()
        expected = functional.silu(exact(exact_input))
        expected.backward(gradient.to(dtype).double())
        output = norm_silu(joined_input, joined)
        output.backward(gradient.to(dtype))
        assert output.dtype == dtype and output.is_contiguous(memory_format=torch.channels_last)
        pairs = {"output": (output, expected), "gradient": (joined_input.grad, exact_input.grad)}
        pairs |= {"weight": (joined.weight.grad, exact.weight.grad), "bias": (joined.bias.grad, exact.bias.grad)}
        pairs |= {name: (getattr(joined, name), getattr(exact, name)) for name in ("running_mean", "running_var")}
        for name, (found, wanted) in pairs.items():
            errors[f"{kind}, {name}"] = float((found.detach().double() - wanted).norm() / wanted.detach().norm())
        assert joined.num_batches_tracked == 1
    return errors

print(json.dumps([errors_of(shape, getattr(torch, dtype), offset) for shape, dtype, offset, _most in CASES]))
"""


def test_joined_operation_computes_what_separate_ones_compute():
    pytest.importorskip("triton")
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environ = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-c", AGAINST_SEPARATE_OPERATIONS]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = zip(CASES, json.loads(done.stdout), strict=True)
    wrong = {(*case, name): error for case, errors in found for name, error in errors.items() if not error <= case[-1]}
    assert not wrong


def test_single_value_of_each_channel_is_refused():
    """Its variance would make the running one NaN."""
    norm = nn.BatchNorm2d(4)
    with pytest.raises(ValueError, match="more than one value"):
        norm_silu(torch.ones(1, 4, 1, 1), norm)
    assert norm.num_batches_tracked == 0


def test_only_what_is_known_is_joined():
    usual, other_activation, other_norm, exact = Conv(4, 8), Conv(4, 8), Conv(4, 8), Conv(4, 8).double()
    other_activation.act = nn.ReLU()
    other_norm.bn = nn.Identity()
    join_norm_silu(nn.Sequential(usual, other_activation, other_norm, exact))
    assert [one.is_joined for one in (usual, other_activation, other_norm, exact)] == [True, False, False, False]
    join_norm_silu(usual, joined=False)
    assert not usual.is_joined
    assert not Conv(4, 8).is_joined


@pytest.mark.parametrize("shape", [(2, 3, 32, 64), (1, 3, 64, 32), (3, 1, 32, 32)])
def test_stem_over_blocks_of_pixels_computes_the_same(shape):
    torch.manual_seed(0)
    conv = nn.Conv2d(shape[1], 8, 6, 2, 2, bias=False).double()
    images = torch.rand(shape, dtype=torch.float64).to(memory_format=torch.channels_last)
    found = []
    for output in (conv(images), stem_convolution(images, conv)):
        conv.zero_grad()
        output.sin().sum().backward()
        found.append((output.detach(), conv.weight.grad.clone()))
    assert all(torch.allclose(one, other, rtol=1e-12) for one, other in zip(*found, strict=True))


def test_upsample_repeats_cells_in_their_type():
    cells = torch.rand(1, 2, 3, 3).bfloat16()
    assert torch.equal(Upsample()(cells), cells.repeat_interleave(2, 2).repeat_interleave(2, 3))
