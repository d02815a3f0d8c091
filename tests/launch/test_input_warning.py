"""The warning about slow input at a submission: from runs of the user, else from what bench data has left."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import msgspec
import pytest

from hpc_yolo.cli.bench_data import lines_of
from hpc_yolo.forecast.input_rate import InputRate, add_rate, conditions, loaders_per_rank
from hpc_yolo.launch.input_warning import input_warnings, node_bytes, spec_as_run
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.train import TrainSpec

GIB = 2**30
PLAN = SimpleNamespace(
    spec=Spec(
        name="a",
        model="yolov5n",
        data=DataSpec(path="coco.yaml"),
        cluster=ClusterSpec(gpus_per_node=4, gpu_type="h100", cpus_per_task=8),
        train=TrainSpec(workers=8, cache="none"),
    ),
    uses_slurm=True,
    world_size=4,
    tasks_per_node=4,
    gpus_per_node=4,
)


@pytest.fixture
def state(tmp_path):
    values = {"data": "coco.yaml", "cpu": "x", "files_s": 0.01, "memory_s": 0.001, "time": 1.0}
    rate = InputRate(**values, **conditions(PLAN.spec), decoded_bytes=GIB)
    add_rate(tmp_path, rate)
    return tmp_path


def test_nothing_measured_is_no_warning(tmp_path):
    assert input_warnings(PLAN, None, tmp_path) == []


@pytest.mark.parametrize(("wait", "number"), [(0.4, 1), (0.02, 0)], ids=["waited", "did not wait"])
def test_run_that_was_measured_decides(state, wait, number):
    found = input_warnings(PLAN, ("first", wait), state)
    assert len(found) == number
    assert all("in first, 40 %" in text for text in found)


def test_without_runs_the_measured_loaders_decide(state):
    (found,) = input_warnings(PLAN, None, state)
    assert "32 loader processes give about 3,200 images/s" in found


def test_what_was_measured_for_gpus_does_not_count_for_a_run_that_gets_none(state):
    plan = plan_of()
    plan.gpus_per_node = 0
    assert input_warnings(plan, None, state) == []
    assert loaders_per_rank(spec_as_run(plan), 8) == 7, "a task that trains on a core leaves it to itself"


@pytest.mark.parametrize(("gpus_per_node", "is_said"), [(4, True), (0, False)])
def test_what_loaders_give_says_who_augments_the_images(state, gpus_per_node, is_said):
    plan = plan_of()
    plan.gpus_per_node = gpus_per_node
    rate = InputRate(data="coco.yaml", cpu="x", files_s=0.01, memory_s=0.001, time=1.0, **conditions(spec_as_run(plan)))
    assert dict(lines_of(plan, rate))["one core"].endswith("; GPUs augment them") == is_said


def plan_of(cache="auto", **cluster):
    plan = copy.copy(PLAN)
    replace = msgspec.structs.replace
    plan.spec = replace(
        PLAN.spec,
        train=replace(PLAN.spec.train, cache=cache),
        cluster=replace(PLAN.spec.cluster, **cluster),
    )
    return plan


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ({"mem": "64G"}, 64 * GIB),
        ({"mem_per_cpu": "2G"}, 64 * GIB),
        ({"mem_per_gpu": "2G"}, 8 * GIB),
        ({"mem": "0"}, None),
        ({}, None),
    ],
    ids=["of a node", "of cores", "of GPUs", "all of a node", "left to the site"],
)
def test_memory_of_a_node_is_that_of_the_request(cluster, expected):
    assert node_bytes(plan_of(**cluster)) == expected


def test_memory_of_a_local_run_is_what_is_free_here(monkeypatch):
    monkeypatch.setattr("hpc_yolo.launch.input_warning.available_bytes", lambda: 7)
    plan = plan_of(mem="64G")
    plan.uses_slurm = False
    assert node_bytes(plan) == 7


@pytest.mark.parametrize(("mem", "number"), [("4G", 0), ("3G", 1)], ids=["fit", "do not fit"])
def test_images_that_auto_keeps_in_memory_are_no_warning(state, mem, number):
    assert len(input_warnings(plan_of(mem=mem), None, state)) == number
