"""The warning about slow input at a submission: from runs of the user, else from what bench data has left."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hpc_yolo.forecast.input_rate import InputRate, add_rate
from hpc_yolo.launch.input_warning import input_warnings
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.train import TrainSpec

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
)


@pytest.fixture
def state(tmp_path):
    rate = InputRate(data="coco.yaml", imgsz=640, cpu="x", files_s=0.01, memory_s=0.001, time=1.0)
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
