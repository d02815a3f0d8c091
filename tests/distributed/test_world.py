"""The agreement of all ranks on requests to stop or to save, in two processes."""

from __future__ import annotations

import json
import signal
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from rank_programs import results_of_ranks
from torch._C._distributed_c10d import TCPStore

from hpc_yolo.cluster.process import LOOPBACK, ProcessInfo
from hpc_yolo.distributed import StepRequest, StopAgreement, World, world

Request = tuple[int | None, bool]
TERM, USR2 = signal.SIGTERM, signal.SIGUSR2

# Each rank makes one request per step and prints the agreed requests.
PROGRAM = """
import json, signal, sys
from types import SimpleNamespace
from typing import Any
import torch.distributed as dist
from hpc_yolo.distributed import StepRequest, StopAgreement

store, rank, requests = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
agreement = StopAgreement(SimpleNamespace(size=2, control=None))
agreed = [
    agreement.ask(StepRequest(signal.Signals(number) if number else None, is_save_due))
    for number, is_save_due in requests
]
agreed.append(agreement.settle())
print(json.dumps([[item.stop_signal, item.is_save_due] for item in agreed]))
dist.destroy_process_group()
"""


# (request of rank 0, request of rank 1, agreed request) of each step
STEPS: list[tuple[Request, Request, Request]] = [
    ((None, False), (None, False), (None, False)),
    ((None, True), (None, False), (None, True)),
    ((None, False), (TERM, False), (TERM, False)),
    ((None, True), (TERM, False), (TERM, True)),
    ((USR2, False), (TERM, False), (TERM, False)),  # the highest
]


def test_ranks_agree_one_step_later(tmp_path: Path) -> None:
    agreed = results_of_ranks(tmp_path, PROGRAM, [json.dumps([step[rank] for step in STEPS]) for rank in range(2)])
    expected = [[None, False], *(list(step[2]) for step in STEPS)]
    assert agreed == [expected] * 2


# Each rank trains two steps on images of its own, evaluates, and prints a gradient, and running means before and after.
TRAINING = """
import json, sys
from contextlib import nullcontext
import torch
import torch.distributed as dist
from torch import nn
from hpc_yolo.cluster.process import LOOPBACK, ProcessInfo
from hpc_yolo.distributed import World
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.training import evaluation, model

store, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
evaluation.evaluate = evaluation.crowds_of = lambda *_, **__: None
process = ProcessInfo(rank, rank, 0, 2, 2, 1, LOOPBACK, None, "torchrun")
world = World(process, torch.device("cpu"), ())
layer = nn.BatchNorm2d(3)
distributed = model.distribute(layer, TrainSpec(), world, None, print)
images = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 2, 2) * (rank + 1)
for _ in range(2):  # at the second, buffers would be copied
    (distributed(images) * images * rank).sum().backward()
gradient, before = layer.weight.grad.tolist(), layer.running_mean.tolist()
evaluation.evaluate_average(layer, [], None, nullcontext(), world)
print(json.dumps([gradient, before, layer.running_mean.tolist()]))
dist.destroy_process_group()
"""


def test_ranks_share_gradients_at_each_step_and_running_statistics_before_an_evaluation(tmp_path: Path) -> None:
    (gradient, mean, evaluated), (gradient_1, mean_1, evaluated_1) = results_of_ranks(tmp_path, TRAINING, ["", ""])
    assert gradient == gradient_1 != [0] * 3, "rank 0's own is 0"
    assert mean_1 == pytest.approx([0.19] * 3), "0.145 where a step waits for statistics that it does not read"
    assert evaluated == evaluated_1 == mean, "rank 0's are saved"


def test_single_rank_agrees_at_once() -> None:
    agreement = StopAgreement(SimpleNamespace(size=1))
    assert agreement.ask(StepRequest(TERM, is_save_due=True)) == StepRequest(TERM, is_save_due=True)
    assert agreement.settle() == StepRequest()


def test_second_store_ends_soon_after_the_server_and_keeps_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank whose rank 0 was killed before the watchdog had connected tried again for the ten minutes of a start."""
    monkeypatch.setattr(world, "RECONNECT_S", 0.5)
    patience = timedelta(seconds=600)
    server: Any = TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False)
    client: Any = TCPStore(LOOPBACK, server.port, is_master=False, timeout=patience)
    process = ProcessInfo(1, 1, 0, 2, 2, 1, LOOPBACK, None, "single")
    rank = World(process, torch.device("cpu"), (), store=client)
    second: Any = rank.second_store("watchdog")
    assert second is not None
    second.set("key", "value")
    assert client.get("watchdog/key") == b"value"
    assert client.timeout == second.timeout == patience
    del server
    with pytest.raises(dist.DistError):
        rank.second_store("watchdog")
    assert client.timeout == patience
