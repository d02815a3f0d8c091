"""The GPU that a task uses. No GPU is needed: the CUDA functions of torch are replaced."""

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
    """Return a function that replaces the GPUs of torch by some uuids and returns the list of chosen indices."""
    chosen: list[int] = []

    def replace(*uuids: str) -> list[int]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(uuids))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(uuids))
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        properties = [SimpleNamespace(uuid=uuid) for uuid in uuids]
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties[device.index])
        return chosen

    return replace


def task(local_rank: int, tasks_per_node: int, launcher: str = "slurm") -> ProcessInfo:
    return ProcessInfo(local_rank, local_rank, 0, tasks_per_node, tasks_per_node, 1, "gpu01", None, launcher)


CHOSEN = {
    # requested, local rank, tasks per node, visible GPUs, launcher, expected index
    "one GPU per task, all visible": ("auto", 3, 4, 4, "slurm", 3),
    "one visible GPU per task": ("auto", 1, 4, 1, "slurm", 0),
    "torchrun workers": ("auto", 1, 2, 1, "torchrun", 0),
    "two GPUs per task": ("auto", 3, 4, 2, "slurm", 1),
    "listed, one visible": ("0,1", 1, 2, 1, "slurm", 0),
    "listed": ("2,0", 1, 2, 4, "torchrun", 0),
    "more GPUs than tasks": ("auto", 1, 2, 8, "slurm", 1),
    "listed by submit": ("2,3", 1, 2, 2, "submitit-local", 1),
    "single task": ("3", 0, 1, 4, "single", 3),
}


@pytest.mark.parametrize(
    ("requested", "local_rank", "tasks", "visible", "launcher", "expected"), CHOSEN.values(), ids=CHOSEN.keys()
)
def test_task_uses_gpu_of_its_local_rank_or_its_only_gpu(
    gpus, requested, local_rank, tasks, visible, launcher, expected
):
    chosen = gpus(*map(str, range(1, visible + 1)))
    device = choose_device(requested, task(local_rank, tasks, launcher))
    assert device == torch.device("cuda", expected)
    assert chosen == [expected]


REFUSED = {
    "missing GPU": ("3", 0, 1, 1, "GPU 3 is not available: this task (local rank 0) sees 1 GPU"),
    "no GPU": ("0,1", 1, 2, 0, "GPU 1 is not available: this task (local rank 1) sees 0 GPUs"),
    "fewer GPUs than tasks": ("0", 1, 2, 2, "train.device: 0 names 1 GPU for 2 tasks of a node"),
}


@pytest.mark.parametrize(("requested", "local_rank", "tasks", "visible", "message"), REFUSED.values(), ids=REFUSED)
def test_missing_gpu_error_names_gpu(gpus, requested, local_rank, tasks, visible, message):
    gpus(*map(str, range(visible)))
    with pytest.raises(TrainingError) as caught:
        choose_device(requested, task(local_rank, tasks))
    assert caught.value.message == message


def test_auto_without_gpus_is_cpu(gpus):
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
def test_ranks_with_separate_gpus_are_accepted(names):
    _require_gpus_of_their_own(check_ins(*names))


def test_ranks_on_same_gpu_are_refused():
    """Each of two tasks on one GPU sees one GPU, as with separate GPUs."""
    with pytest.raises(TrainingError, match=r"ranks 1 and 2 on gpu01 would compute on one GPU \(b\)") as caught:
        _require_gpus_of_their_own(check_ins("a", "b", "b"))
    assert "cluster.gpus_per_node" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("uuid", "expected"),
    [("a1b2-03", "a1b2-03"), ("00000000-0000", None), ("", None)],
)
def test_identity_of_gpu_is_uuid_or_none(gpus, uuid, expected):
    gpus(uuid)
    assert device_identity(torch.device("cuda", 0)) == expected
    assert device_identity(torch.device("cpu")) is None
