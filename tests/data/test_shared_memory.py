"""Space for batches in /dev/shm: required before the first step, and named where it runs out later."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from waiting import PATIENCE_S

from hpc_yolo.core.errors import TrainingError
from hpc_yolo.data import shared_memory
from hpc_yolo.data.shared_memory import (
    LABELS_BYTES,
    Demand,
    RankRoom,
    Room,
    demand_of,
    explain_lost_worker,
    into_shared_memory,
    require_room,
    shared_room,
    size_text,
)

MIB = 2**20


@pytest.mark.parametrize(
    ("num_batches", "workers", "at_once"),
    [(100, 8, 18), (100, 1, 4), (3, 8, 3), (100, 0, 0), (0, 4, 0)],
)
def test_demand_is_of_batches_ahead_within_an_epoch(num_batches: int, workers: int, at_once: int) -> None:
    assert demand_of(5 * MIB, num_batches, workers) == Demand(5 * MIB + LABELS_BYTES, at_once)


def ranks(*rows: tuple[int, int, int, int]) -> list[RankRoom]:
    """(node rank, MiB needed, MiB free, identity of its /dev/shm) of each rank."""
    return [
        RankRoom(node, f"gpu{node:02d}", Demand(needed * MIB, 1), Room(free * MIB, 64 * MIB, identity))
        for node, needed, free, identity in rows
    ]


FITS = {
    "one rank": [(0, 60, 64, 1)],
    "two that share": [(0, 30, 64, 1), (0, 30, 64, 1)],
    "two with one of their own each": [(0, 60, 64, 1), (0, 60, 64, 2)],
    "two nodes, whose file systems have one number": [(0, 60, 64, 1), (1, 60, 64, 1)],
}
DOES_NOT_FIT = {
    "one rank": ([(0, 65, 64, 1)], "gpu00: /dev/shm has 64 MiB of 64 MiB free"),
    "two that share": ([(0, 40, 64, 1), (0, 40, 64, 1)], "they need 80 MiB, 1 batch of 40 MiB for each of 2 ranks"),
    "the second node": ([(0, 60, 64, 1), (1, 60, 20, 1)], "gpu01: /dev/shm has 20 MiB of 64 MiB free"),
    "a rank with one of its own": ([(0, 60, 64, 1), (0, 60, 50, 2)], "gpu00: /dev/shm has 50 MiB of 64 MiB free"),
    "ranks that see it at different times": ([(0, 30, 64, 1), (0, 30, 50, 1)], "has 50 MiB of 64 MiB free"),
}


@pytest.mark.parametrize("rows", FITS.values(), ids=FITS.keys())
def test_ranks_of_a_node_share_its_space(rows: list[tuple[int, int, int, int]]) -> None:
    require_room(ranks(*rows))


@pytest.mark.parametrize(("rows", "clause"), DOES_NOT_FIT.values(), ids=DOES_NOT_FIT.keys())
def test_node_without_space_is_named(rows: list[tuple[int, int, int, int]], clause: str) -> None:
    with pytest.raises(TrainingError) as caught:
        require_room(ranks(*rows))
    assert clause in caught.value.message
    assert "--shm-size" in str(caught.value.hint) and "train.workers" in str(caught.value.hint)


def test_ranks_without_loader_workers_need_no_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "DIRECTORY", Path("/no/such/directory"))
    assert shared_room().text == "there is no /dev/shm"
    require_room([RankRoom(0, "gpu00", demand_of(MIB, 100, 0), shared_room())])
    with pytest.raises(TrainingError, match="gpu00: there is no /dev/shm"):
        require_room([RankRoom(0, "gpu00", demand_of(MIB, 100, 1), shared_room())])


def test_this_machine_has_shared_memory() -> None:
    room = shared_room()
    assert 0 < room.free_bytes <= room.total_bytes


def test_batches_outside_a_worker_are_not_moved() -> None:
    batch = torch.zeros(3)
    into_shared_memory([batch])
    assert not batch.is_shared()


@pytest.mark.parametrize(
    ("error", "room", "is_named"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that", Room(60, 64, 1), True),
        ("DataLoader worker (pid 7) is killed by signal: Killed.", Room(60, 64, 1), False),
        ("DataLoader worker (pid 7) is killed by signal: Killed.", Room(1, 64, 1), True),
        ("DataLoader worker (pid 7) is killed by signal: Killed.", Room(0, 0, 0), True),
        ("DataLoader worker (pid 7) exited unexpectedly", Room(5 * 2**30, 100 * 2**30, 1), False),
    ],
)
def test_dead_worker_is_explained_by_dev_shm_only_where_it_may_be_the_cause(
    monkeypatch: pytest.MonkeyPatch, error: str, room: Room, is_named: bool
) -> None:
    monkeypatch.setattr(shared_memory, "shared_room", lambda: room)
    explained = explain_lost_worker(RuntimeError(error))
    assert (explained is not None) == is_named
    assert explained is None or "/dev/shm" in explained


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (4 * MIB, "4.0 MiB"), (2**44, "16384 GiB")]
)
def test_sizes_have_a_unit(num_bytes: int, text: str) -> None:
    assert size_text(num_bytes) == text


# In a namespace of its own, whose /dev/shm has 3 MiB. `fill` bytes are taken after the check.
PROGRAM = """
import sys
from pathlib import Path
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.loader import TrainingLoader, ValidationLoader
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.shared_memory import RankRoom, require_room, shared_room
from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.spec.recipe import Hyperparameters

directory, kind, batch, fill = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
index = scan_split(load_dataset(directory / "dataset.yaml"), "train")
options = dict(imgsz=160, batch=batch, rank=0, world_size=1, workers=2, stride=32)
if kind == "training":
    loader = TrainingLoader(index, hyp=Hyperparameters(), seed=0, **options)
else:
    loader = ValidationLoader(index, **options)
try:
    demand = loader.demand(loads_ahead=True) if kind == "training" else loader.shared_demand
    require_room([RankRoom(0, "here", demand, shared_room())])
    Path("/dev/shm/other").write_bytes(bytes(fill))
    batches = loader.epoch(0) if kind == "training" else iter(loader)  # workers take room from here on
    print("batches", sum(1 for _ in batches), flush=True)
except HpcYoloError as error:
    print(type(error).__name__, error, flush=True)
"""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hpc_yolo.data.synth import write_shapes_dataset

    return write_shapes_dataset(tmp_path_factory.mktemp("data") / "shapes", num_train=40, num_val=2).parent


def in_small_namespace(size: str, *arguments: str) -> str:
    """Return the output of a Python program whose /dev/shm has `size` bytes; a hang is ended."""
    script = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec timeout 500 "$@"'
    command = ["unshare", "--mount", "--", "sh", "-ec", script, "sh", sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small /dev/shm")
@pytest.mark.parametrize("kind", ["training", "validation"])
def test_small_dev_shm_is_an_error_instead_of_a_hang(shapes: Path, kind: str) -> None:
    assert "batches 14" in in_small_namespace("3m", "-c", PROGRAM, str(shapes), kind, "3", "0")
    refused = in_small_namespace("3m", "-c", PROGRAM, str(shapes), kind, "10", "0")
    assert refused.startswith("TrainingError here: /dev/shm has ")
    assert "of 3.0 MiB free, and loader workers pass batches through it: they need " in refused
    # Something else takes the room that was there before the first step.
    later = in_small_namespace("3m", "-c", PROGRAM, str(shapes), kind, "3", str(3 * MIB - 262144))
    assert later.startswith("LostProcessError a loader worker cannot pass its batch of ")
    assert "KiB of 3.0 MiB free" in later
    assert "No space left on device" in later
