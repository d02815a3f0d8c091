"""The request and the script of a job that evaluates beside the training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpc_yolo.cluster import scheduler
from hpc_yolo.core.errors import ClusterError, SchedulerUnavailable
from hpc_yolo.launch.evaluation_script import evaluation_script, require_accepted
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.container import ContainerSpec
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.stages import StageRequest

OPTIONS = {"nodelist": "n[1-4]", "exclusive": True, "mail-type": "END", "hold": True}  # for the training alone
EIGHT_GPUS = ClusterSpec(nodes=4, gpus_per_node=8, mem="400G", time="2-0", partition="p", account="a", sbatch=OPTIONS)


def spec_of(tmp_path: Path, cluster: ClusterSpec = EIGHT_GPUS, **more: Any) -> Spec:
    data = str(tmp_path / "d.yaml")
    return Spec(name="run", model="yolov5n", data=DataSpec(path=data), cluster=cluster, validate="aside", **more)


@pytest.mark.parametrize(
    ("request_", "options"),
    [
        (None, {"gpus-per-node=1", "mem=51200M", "time=01:00:00", "partition=p", "account=a"}),
        (
            StageRequest(gpus_per_node=0, time="10", partition="cpu", mem="8G"),
            {"mem=8G", "time=10", "partition=cpu", "account=a"},
        ),
    ],
)
def test_job_requests_one_task_or_what_the_spec_says(
    tmp_path: Path, request_: StageRequest | None, options: set[str]
) -> None:
    run = RunDirectory(tmp_path / "run")
    script = evaluation_script(run, spec_of(tmp_path, validate_cluster=request_))
    found = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}
    always = {"job-name=run-val", "nodes=1", "ntasks-per-node=1", "cpus-per-task=4", "no-requeue", "open-mode=append"}
    assert found == options | always | {f"output={run.evaluations}/%j.log"}


def test_script_has_environment_of_training(tmp_path: Path) -> None:
    cluster = msgspec.structs.replace(EIGHT_GPUS, setup=["module load x"], env={"A": "1"}, python="/env/python")
    run = RunDirectory(tmp_path / "run")
    script = evaluation_script(run, spec_of(tmp_path, cluster))
    assert "\nmodule load x\n" in script and "\nexport A=1\n" in script
    assert f"/env/python -u -m hpc_yolo evaluate-waiting {run.path}\n" in script


def test_task_runs_in_container_of_training(tmp_path: Path) -> None:
    container = ContainerSpec(image="/images/train.sif", runtime="apptainer")
    cluster = msgspec.structs.replace(EIGHT_GPUS, container=container, setup=["true"])
    script = evaluation_script(RunDirectory(tmp_path / "run"), spec_of(tmp_path, cluster))
    (tasks,) = [line for line in script.splitlines() if line.startswith("srun ")]
    assert "apptainer exec" in tasks and tasks.endswith(f"-m hpc_yolo evaluate-waiting {tmp_path}/run")
    assert script.splitlines()[-1].startswith(f"exec {sys.executable} -u -m hpc_yolo evaluate-waiting"), "outside of it"


@pytest.mark.parametrize(
    ("error", "is_refused"),
    [(None, False), (SchedulerUnavailable("no answer"), False), (ClusterError("invalid partition"), True)],
)
def test_job_that_slurm_would_refuse_is_found_at_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None, is_refused: bool
) -> None:
    def estimate_start(script: str, **_more: Any) -> None:
        assert "--job-name=run-val" in script
        if error is not None:
            raise error

    monkeypatch.setattr(scheduler, "estimate_start", estimate_start)
    run, spec = RunDirectory(tmp_path / "run"), spec_of(tmp_path)
    if not is_refused:
        require_accepted(run, spec)
        return
    with pytest.raises(ClusterError, match="Slurm refuses a job that evaluates: invalid partition"):
        require_accepted(run, spec)
