"""Which runs a plan learns from: their specs and journals on disk."""

import os

import msgspec
import pytest
from journal_events import started, stepped

from hpc_yolo.forecast.similar import MAX_USED, Request, find_sources, read_source
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import CheckpointSaved
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.load import dump_spec
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.train import TrainSpec

SPEC = Spec(
    name="new",
    model="yolov5n",
    data=DataSpec(path="/data/shapes.yaml"),
    cluster=ClusterSpec(gpus_per_node=2, gpu_type="a100"),
    train=TrainSpec(batch=16, imgsz=640),
)
REQUEST = Request(SPEC, world_size=2, uses_slurm=True)


def saved(step: int, name: str, size_bytes: int) -> CheckpointSaved:
    return CheckpointSaved(
        time=120.0, attempt=1, epoch=0, step=step, path=f"checkpoints/{name}", size_bytes=size_bytes, seconds=0.5
    )


@pytest.fixture
def write_run(tmp_path):
    """Write a run of two log lines; return it. Later ones are newer."""
    number = 0

    def write(name: str, *, spec: Spec = SPEC, torn: bool = False, **start) -> RunDirectory:
        nonlocal number
        number += 1
        run = RunDirectory(tmp_path / name)
        run.create()
        run.spec.write_text(dump_spec(msgspec.structs.replace(spec, name=name)))
        start = {"world_size": 2, "batch": 16, "device": "A100", **start}
        events = [
            started(100.0, **start),
            stepped(110.0, 2),
            stepped(112.0, 4),
            saved(4, "state-1", 900),
            saved(4, "best.safetensors", 300),
        ]
        text = b"".join(msgspec.json.encode(event) + b"\n" for event in events)
        run.journal.write_bytes(b"torn\n" if torn else text)
        os.utime(run.journal, (number, number))
        return run

    return write


def train(**fields) -> Spec:
    return msgspec.structs.replace(SPEC, train=msgspec.structs.replace(SPEC.train, **fields))


def cluster(**fields) -> Spec:
    return msgspec.structs.replace(SPEC, cluster=msgspec.structs.replace(SPEC.cluster, **fields))


@pytest.mark.parametrize(
    ("spec", "start", "differs"),
    {
        "alike": (SPEC, {}, ()),
        "other weights of the same model": (msgspec.structs.replace(SPEC, model="", weights="/w/yolov5n.pt"), {}, ()),
        "other data and epochs": (
            msgspec.structs.replace(train(epochs=7), data=DataSpec(path="/data/coco.yaml")),
            {},
            (),
        ),
        "other ranks, as many images on each": (SPEC, {"world_size": 4, "batch": 32}, ("4 ranks instead of 2",)),
        "other batch": (SPEC, {"batch": 32}, ("16 images a rank instead of 8",)),
        "other model": (msgspec.structs.replace(SPEC, model="yolov5s"), {}, None),
        "other image size": (train(imgsz=1280), {}, None),
        "other type of GPU": (cluster(gpu_type="v100"), {}, None),
        "no GPU": (cluster(gpus_per_node=0, tasks_per_node=2), {}, None),
        "on a machine without Slurm": (SPEC, {"launcher": "submitit-local"}, None),
    }.values(),
    ids=lambda value: "",
)
def test_run_is_used_if_its_speed_says_something(write_run, spec, start, differs):
    source = read_source(REQUEST, write_run("old", spec=spec, **start))
    assert (None if source is None else source.differs) == differs


def test_partition_stands_for_the_type_of_gpu_where_that_is_not_set(write_run):
    spec = cluster(gpu_type=None, partition="volta")
    run = write_run("old", spec=spec)
    for partition, is_used in (("volta", True), ("ampere", False)):
        wanted = cluster(gpu_type=None, partition=partition)
        assert (read_source(Request(wanted, 2, uses_slurm=True), run) is not None) == is_used


def test_own_run_is_enough(write_run, tmp_path):
    own = write_run("new")

    def others():
        raise AssertionError("other runs are not read")

    (source,) = find_sources(REQUEST, own, others)
    assert (source.run, source.last_step, source.saves.size_bytes, source.model_bytes) == (own, 4, 900, 300)


def test_newest_alike_runs_come_before_those_that_are_scaled(write_run, tmp_path):
    runs = [write_run(f"run{number}") for number in range(4)]
    runs += [write_run("larger", batch=32), write_run("torn", torn=True), RunDirectory(tmp_path / "gone")]
    own = RunDirectory(tmp_path / "new")
    found = find_sources(REQUEST, own, lambda: [*runs, *runs])
    assert [source.run.name for source in found] == ["run3", "run2", "run1"]
    assert len(found) == MAX_USED
    assert [source.run.name for source in find_sources(REQUEST, own, lambda: runs[4:])] == ["larger"]
    assert find_sources(REQUEST, own, lambda: runs, max_read=0) == []


def test_own_run_with_other_ranks_is_scaled_where_no_other_is_alike(write_run):
    own, other = write_run("new", world_size=1, batch=8), write_run("other")
    assert [source.run for source in find_sources(REQUEST, own, lambda: [])] == [own]
    assert [source.run for source in find_sources(REQUEST, own, lambda: [other])] == [other]
