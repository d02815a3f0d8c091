"""Stages of a run in containers: which run inside, with what mounted, and what is said where that is not possible."""

import pytest

from hpc_yolo.launch.run_stages import run_local_stages
from hpc_yolo.launch.stage_commands import stage_command
from hpc_yolo.launch.stage_container import needs_container
from hpc_yolo.runs.events import Cause
from hpc_yolo.runs.run_end import RunEnd
from hpc_yolo.runs.stages import read_stages
from hpc_yolo.spec.container import ContainerSpec
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.stages import ExportStage, PredictStage, ReportStage, Stage, ValStage

BOX = ContainerSpec(image="/images/train.sif", runtime="apptainer")


def spec_of(*then, container=BOX):
    cluster = ClusterSpec(nodes=2, gpus_per_node=4, prefix=["numactl"], srun={"cpu-bind": "none"}, container=container)
    return Spec(name="run", model="yolov5n", data=DataSpec(path="/data/d.yaml"), cluster=cluster, then=list(then))


@pytest.mark.parametrize(
    ("stage", "is_inside"),
    [
        (Stage(val=ValStage()), True),
        (Stage(predict=PredictStage(source="/a")), True),
        (Stage(export=ExportStage()), True),
        (Stage(report=ReportStage()), False),
        (Stage(shell="ls"), False),
    ],
)
def test_steps_that_run_a_model_are_inside(run, stage, is_inside):
    assert needs_container(spec_of(), stage) == is_inside
    assert not needs_container(spec_of(container=None), stage)
    command = stage_command(run, spec_of(), "step", stage)
    assert (command[:2] == ["bash", "-c"] and "apptainer exec" in command[-1]) == is_inside


def test_stage_is_one_task_with_its_own_files_mounted(run, tmp_path):
    (tmp_path / "images").mkdir()
    step = PredictStage(source=[f"{tmp_path}/images/*.jpg", "http://a/b.jpg"], weights="/weights/w.pt")
    *_, text = stage_command(run, spec_of(), "predict", Stage(predict=step))
    srun, launcher = text.split("apptainer exec ")
    assert srun.startswith("srun ") and "--nodes=1 --ntasks=1" in srun
    assert "numactl" not in text and "cpu-bind" not in text, "those are for the tasks of the training"
    for mounted in (run.path, "/data", f"{tmp_path}/images", "/weights"):
        assert f"--bind={mounted}:{mounted}" in launcher
    assert "/images/train.sif env " in launcher and "python3 -m hpc_yolo predict --weights /weights/w.pt" in launcher


@pytest.mark.parametrize(
    ("container", "detail"),
    [
        (ContainerSpec(image="/images/train.sif", runtime="singularity"), "singularity"),
        (ContainerSpec(image="/images/train.sif", runtime="apptainer", mounts=["$UNSET_THERE/a"]), "UNSET_THERE"),
    ],
)
def test_stage_whose_container_cannot_start_is_not_run(run, monkeypatch, container, detail):
    monkeypatch.setenv("PATH", "/nowhere")
    end = RunEnd(1, True, Cause.FINISHED)
    assert not run_local_stages(run, spec_of(Stage(val=ValStage()), container=container), end, {"val": 1})
    (record,) = read_stages(run)
    assert record.state == "not run" and detail in record.detail
