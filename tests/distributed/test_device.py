"""Which GPU a task takes. No GPU is needed: torch's view of CUDA is replaced."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import TrainingError
from hpc_yolo.distributed import choose_device
from hpc_yolo.distributed.device import device_identity
from hpc_yolo.distributed.group import _require_gpus_of_their_own
from hpc_yolo.distributed.rendezvous import CheckIn
from hpc_yolo.runs.events import RankLocation


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch):
    """Make torch see so many GPUs; the uuids, and the one that was chosen last."""
    chosen: list[int] = []

    def see(*uuids: str) -> list[int]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(uuids))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(uuids))
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        properties = [SimpleNamespace(uuid=uuid) for uuid in uuids]
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties[device.index])
        return chosen

    return see


def task(local_rank: int, tasks_per_node: int, launcher: str = "slurm") -> ProcessInfo:
    return ProcessInfo(local_rank, local_rank, 0, tasks_per_node, tasks_per_node, 1, "gpu01", None, launcher)


TAKEN = {
    # requested, local rank, tasks of the node, visible GPUs, launcher: the index that is right
    "one GPU a task, all visible": ("auto", 3, 4, 4, "slurm", 3),
    "the site shows each task its own GPU": ("auto", 1, 4, 1, "slurm", 0),
    "as torchrun's workers": ("auto", 1, 2, 1, "torchrun", 0),
    "two GPUs for each task": ("auto", 3, 4, 2, "slurm", 1),
    "listed, and the site shows one": ("0,1", 1, 2, 1, "slurm", 0),
    "listed": ("2,0", 1, 2, 4, "torchrun", 0),
    "more GPUs than tasks": ("auto", 1, 2, 8, "slurm", 1),
    "chosen by submit": ("2,3", 1, 2, 2, "submitit-local", 1),
    "alone": ("3", 0, 1, 4, "single", 3),
}


@pytest.mark.parametrize(
    ("requested", "local_rank", "tasks", "visible", "launcher", "expected"), TAKEN.values(), ids=TAKEN.keys()
)
def test_a_task_takes_the_gpu_of_its_local_rank_or_one_of_its_own(
    gpus, requested, local_rank, tasks, visible, launcher, expected
):
    chosen = gpus(*map(str, range(1, visible + 1)))
    device = choose_device(requested, task(local_rank, tasks, launcher))
    assert device == torch.device("cuda", expected)
    assert chosen == [expected]


REFUSED = {
    "a number that is not there": ("3", 0, 1, 1, "GPU 3 is not available: this task (local rank 0) sees 1 GPU"),
    "no GPU at all": ("0,1", 1, 2, 0, "GPU 1 is not available: this task (local rank 1) sees 0 GPUs"),
    "fewer listed than tasks": ("0", 1, 2, 2, "train.device: 0 names 1 GPU for 2 tasks of a node"),
}


@pytest.mark.parametrize(("requested", "local_rank", "tasks", "visible", "message"), REFUSED.values(), ids=REFUSED)
def test_a_gpu_that_is_not_there_is_named(gpus, requested, local_rank, tasks, visible, message):
    gpus(*map(str, range(visible)))
    with pytest.raises(TrainingError) as caught:
        choose_device(requested, task(local_rank, tasks))
    assert caught.value.message == message


def test_without_gpus_auto_is_the_cpu(gpus):
    gpus()
    assert choose_device("auto", task(1, 2)) == torch.device("cpu")


def check_ins(*gpu_names: str | None) -> list[CheckIn]:
    return [
        CheckIn(
            location=RankLocation(rank=rank, local_rank=rank, node_rank=0, host="gpu01", pid=1),
            machine="gpu01",
            start=1,
            gpu=gpu,
        )
        for rank, gpu in enumerate(gpu_names)
    ]


@pytest.mark.parametrize("names", [("a", "b"), (None, None), ("MIG-1", "MIG-2", "a")])
def test_ranks_with_gpus_of_their_own_may_train(names):
    _require_gpus_of_their_own(check_ins(*names))


def test_ranks_on_the_same_gpu_are_named():
    """One GPU for two tasks looks, to each of them, like a GPU of its own."""
    with pytest.raises(TrainingError, match=r"ranks 1 and 2 on gpu01 would compute on one GPU \(b\)") as caught:
        _require_gpus_of_their_own(check_ins("a", "b", "b"))
    assert "cluster.gpus_per_node" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("uuid", "expected"),
    [("a1b2-03", "a1b2-03"), ("00000000-0000", None), ("", None)],
)
def test_the_identity_of_a_gpu_is_its_uuid_where_the_driver_has_one(gpus, uuid, expected):
    gpus(uuid)
    assert device_identity(torch.device("cuda", 0)) == expected
    assert device_identity(torch.device("cpu")) is None
