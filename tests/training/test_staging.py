"""Staging before the training: which ranks copy, what is reported, and from where images are read."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.data.copies import readable_files
from hpc_yolo.data.dataset import Dataset, load_dataset
from hpc_yolo.data.images import read_image
from hpc_yolo.data.staging.node import NodeStaging, StageRequest, StageResult
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.distributed import World
from hpc_yolo.runs.events import AnyEvent, DataStaging, RankLocation, WarningRaised
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.training import staging
from hpc_yolo.training.staging import (
    Patience,
    RankProgress,
    StagingReport,
    result_of_node,
    staged_images,
    wait_for_nodes,
    wants_copies,
)

ALONE = ProcessInfo(0, 0, 0, 1, 1, 1, "127.0.0.1", None, "single")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    directory = tmp_path_factory.mktemp("data") / "shapes"
    return load_dataset(write_shapes_dataset(directory, num_train=3, num_val=2, image_size=(64, 48)))


@pytest.fixture
def stage(tmp_path) -> Path:
    (tmp_path / "stage").mkdir()
    return tmp_path / "stage"


def alone(process: ProcessInfo = ALONE) -> World:
    return World(process, torch.device("cpu"), ())


class ThreadWorld:
    """Ranks that are threads: what `staging` uses of a `World`."""

    def __init__(self, rank: int, shared: "Shared") -> None:
        self.rank, self.size, self._shared = rank, 4, shared
        self.process = ProcessInfo(rank, rank % 2, rank // 2, 4, 2, 2, "127.0.0.1", None, "slurm")
        self.ranks = tuple(
            RankLocation(rank=r, local_rank=r % 2, node_rank=r // 2, host=f"n{r // 2}", pid=1) for r in range(4)
        )

    def gather_numbers(self, numbers: Any) -> list[list[float]]:
        return [list(row) for row in self._shared.gather(self.rank, numbers)]

    def gather_arrays(self, arrays: Any) -> list[Any]:
        return self._shared.gather(self.rank, arrays)


class Shared:
    """What the threads exchange."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(4)
        self._values: list[Any] = [None] * 4

    def gather(self, rank: int, value: Any) -> list[Any]:
        self._values[rank] = value
        self._barrier.wait()
        found = list(self._values)
        self._barrier.wait()
        return found


def on_two_nodes(stages: list[str], source: Path) -> tuple[list[StageResult], list[AnyEvent]]:
    """Return (the result on each of 2 x 2 ranks, the events of rank 0) with a stage directory for each node."""
    shared, events = Shared(), list[AnyEvent]()
    files = [str(path) for path in source.iterdir()]

    def work(rank: int) -> StageResult:
        world = cast("World", ThreadWorld(rank, shared))
        own = None
        emit = events.append if rank == 0 else lambda _event: None
        if rank % 2 == 0:
            own = NodeStaging(StageRequest(stages[rank // 2], None, str(source), lambda: files), dict(os.environ))
            own.start()
        wait_for_nodes(own, "DIR", world, emit, 60.0)
        result = result_of_node(own, world, "/data", emit)
        if own is not None:
            own.close(is_over=True)
        return result

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(work, range(4))), events


@pytest.fixture
def source(tmp_path) -> Path:
    directory = tmp_path / "set"
    directory.mkdir()
    for number in range(5):
        (directory / f"{number}.jpg").write_bytes(bytes(1000))
    return directory


def test_one_rank_of_each_node_copies_and_all_get_its_directory(source, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    results, events = on_two_nodes([str(tmp_path / "a"), str(tmp_path / "b")], source)
    directories = [result.files.removeprefix(f"{tmp_path}/")[0] for result in results]
    assert directories == ["a", "a", "b", "b"]
    (event,) = events
    assert isinstance(event, DataStaging)
    assert (event.num_nodes, event.done_bytes, event.copied_bytes, event.is_over) == (2, 10000, 10000, True)


def test_node_without_a_copy_is_named_and_reads_the_dataset(source, tmp_path):
    (tmp_path / "a").mkdir()
    results, events = on_two_nodes([str(tmp_path / "a"), "/no/such/one"], source)
    assert [bool(result.files) for result in results] == [True, True, False, False]
    staged, warning = events
    assert isinstance(staged, DataStaging)
    assert (staged.num_nodes, staged.done_bytes) == (1, 5000)
    assert isinstance(warning, WarningRaised)
    assert warning.message == "data.stage: images are read from /data on n1: there is no directory /no/such/one"


def test_reason_of_several_nodes_is_one_sentence(source):
    _, events = on_two_nodes(["/no/such/one"] * 2, source)
    warning = events[-1]
    assert isinstance(warning, WarningRaised)
    assert warning.message == "data.stage: images are read from /data on n0, n1: there is no directory /no/such/one"


def test_images_are_read_from_copies_within_the_block_only(dataset, stage):
    image = next((dataset.root / "images").rglob("*.jpg"))
    events: list[AnyEvent] = []
    with staged_images(dataset, DataSpec(path="d", stage=str(stage)), alone(), events.append, 60.0):
        (copy,) = stage.rglob(image.name)
        pixels = read_image(str(image))
        image.rename(image.with_suffix(".away"))
        try:
            assert (read_image(str(image)) == pixels).all()
            copy.unlink()
        finally:
            image.with_suffix(".away").rename(image)
        assert (read_image(str(image)) == pixels).all()  # from the dataset, where something has removed the copy
    assert readable_files("/x") == ["/x"]
    (event,) = events
    assert isinstance(event, DataStaging)
    assert event.copied_bytes == sum(path.stat().st_size for path in (dataset.root / "images").rglob("*.jpg"))


def test_dataset_without_images_is_left_to_the_scan(dataset, stage, tmp_path):
    (tmp_path / "empty").mkdir()
    empty = Dataset(dataset.source, tmp_path, (tmp_path / "empty",), (tmp_path / "empty",), (), ("a",), 1)
    events: list[AnyEvent] = []
    with staged_images(empty, DataSpec(path="d", stage=str(stage)), alone(), events.append, 60.0):
        assert readable_files("/x") == ["/x"]
    warning = events[-1]
    assert isinstance(warning, WarningRaised)
    assert f"no images in {tmp_path / 'empty'}" in warning.message


@pytest.mark.parametrize(
    ("stage", "launcher", "is_local", "is_on_nodes", "wants"),
    [
        ("off", "slurm", False, False, False),
        ("/dir", "single", True, False, True),
        ("/dir", "slurm", True, False, True),
        ("/dir", "slurm", False, True, False),
        ("auto", "slurm", False, False, True),
        ("auto", "slurm", True, False, False),
        ("auto", "submitit-local", False, False, False),
        ("auto", "slurm", False, True, False),
    ],
)
def test_copies_are_wanted(stage, launcher, is_local, is_on_nodes, wants, dataset, monkeypatch):
    monkeypatch.setattr(staging, "is_local", lambda _path: is_local)
    process = ProcessInfo(0, 0, 0, 1, 1, 1, "127.0.0.1", None, launcher)
    found = replace(dataset, is_on_nodes=is_on_nodes)
    assert wants_copies(found, DataSpec(path="d", stage=stage), alone(process)) is wants


def test_node_without_progress_is_given_up(source, stage, monkeypatch):
    is_free = threading.Event()
    monkeypatch.setattr("hpc_yolo.data.staging.node.copy_files", lambda *_: is_free.wait())
    own = NodeStaging(StageRequest(str(stage), None, "", lambda: map(str, source.iterdir())), {})
    own.start()
    monkeypatch.setattr(staging, "POLL_S", 0.01)
    wait_for_nodes(own, "DIR", alone(), lambda _event: None, start_timeout_s=0.05)
    assert own.result == StageResult(why_not="nothing was copied for 0 s (train.start_timeout_s)")
    is_free.set()


def test_mistake_in_the_thread_is_raised(stage):
    own = NodeStaging(StageRequest(str(stage), None, "", lambda: [str(1 // 0)]), {})
    own.start()
    with pytest.raises(ZeroDivisionError):
        wait_for_nodes(own, "DIR", alone(), lambda _event: None, 60.0)


def test_patience_begins_again_with_every_change(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("hpc_yolo.training.staging.time.monotonic", lambda: now[0])
    patience = Patience(10.0)
    seen = []
    for now[0], count in ((0, 0), (9, 0), (10, 1), (20, 1), (20.5, 1), (21, 2)):
        seen.append(patience.is_exhausted(count))
    assert seen == [False, False, False, False, True, False]


def test_events_become_rarer(monkeypatch):
    """After 2 s, then after twice as long each time, at most 30 s; and the last one."""
    now, events = [0.0], list[AnyEvent]()
    monkeypatch.setattr("hpc_yolo.training.staging.time.monotonic", lambda: now[0])
    report = StagingReport("DIR", events.append)
    for second in range(1, 101):
        now[0] = float(second)
        report.add([RankProgress(0.0, 1.0, second * 100.0, 20000.0, second * 100.0), RankProgress(1.0)])
    now[0] = 100.5
    report.add([RankProgress(1.0, 1.0, 20000.0, 20000.0, 10050.0), RankProgress(1.0)])
    found = [(event.seconds, event.bytes_per_s) for event in events if isinstance(event, DataStaging)]
    assert found == [(second, 100.0) for second in (2, 6, 14, 30, 60, 90, 100.5)]
    last = cast("DataStaging", events[-1])
    assert (last.num_nodes, last.total_bytes, last.is_over) == (1, 20000, True)
