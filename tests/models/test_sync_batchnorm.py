"""Synchronised batch normalisation on CPUs: two ranks have the statistics of their concatenated batches."""

import subprocess
import sys

import torch
from torch import nn

from hpc_yolo.models.sync_batchnorm import GlobalBatchNorm2d, convert_sync_batchnorm

RANK = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from hpc_yolo.models.sync_batchnorm import convert_sync_batchnorm

rank, directory = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=2)
images, gradient = torch.load(f"{directory}/input.pt")
model = nn.Sequential(nn.BatchNorm2d(3, eps=1e-3, momentum=0.03)).double()
model.load_state_dict(torch.load(f"{directory}/weights.pt"))
model = convert_sync_batchnorm(model, torch.device("cpu"))
shard = images.chunk(2)[rank].requires_grad_()
output = model(shard)
output.backward(gradient.chunk(2)[rank])
weights = {name: parameter.grad for name, parameter in model.named_parameters()}
torch.save((output.detach(), shard.grad, weights, model.state_dict()), f"{directory}/{rank}.pt")
dist.destroy_process_group()
"""


def test_two_ranks_equal_one_process_with_both_batches(tmp_path):
    generator = torch.Generator().manual_seed(0)
    images, gradient = (torch.randn(4, 3, 5, 6, generator=generator, dtype=torch.float64) * 3 + 1 for _ in range(2))
    model = nn.Sequential(nn.BatchNorm2d(3, eps=1e-3, momentum=0.03)).double()
    nn.init.normal_(model[0].weight, generator=generator)
    torch.save((images, gradient), tmp_path / "input.pt")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [rank.wait() for rank in ranks] == [0, 0]
    outputs, gradients, weight_gradients, states = zip(
        *(torch.load(tmp_path / f"{rank}.pt") for rank in range(2)), strict=True
    )
    images.requires_grad_()
    expected = model(images)
    expected.backward(gradient)
    torch.testing.assert_close(torch.cat(outputs), expected.detach())
    torch.testing.assert_close(torch.cat(gradients), images.grad)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(weight_gradients[0][name] + weight_gradients[1][name], parameter.grad)
    for state in states:
        torch.testing.assert_close(state, model.state_dict())


def test_conversion_keeps_weights_names_and_eval_output():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.SiLU())
    names = list(model.state_dict())
    images = torch.rand(2, 3, 4, 4)
    expected = model.eval()(images)
    converted = convert_sync_batchnorm(model, torch.device("cpu"))
    assert isinstance(converted.get_submodule("1"), GlobalBatchNorm2d)
    assert list(converted.state_dict()) == names
    assert torch.equal(converted.eval()(images), expected)
