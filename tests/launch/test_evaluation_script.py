"""The request and the script of a job that evaluates beside the training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from hpc_yolo.launch.evaluation_script import evaluation_script, one_task
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.container import ContainerSpec
from hpc_yolo.spec.schema import ClusterSpec, Spec


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ({"nodes": 4, "gpus_per_node": 8, "mem": "400G", "time": "2-0"}, (1, 1, "51200M", "01:00:00")),
        ({"gpus_per_node": 0, "tasks_per_node": 4, "mem": "4G", "time": "30"}, (1, 0, "1024M", "30")),
        ({"gpus_per_node": 4, "mem": "0"}, (1, 1, "0", None)),
        ({"gpus_per_node": 1, "time": "UNLIMITED"}, (1, 1, None, "01:00:00")),
    ],
)
def test_job_requests_one_task(cluster: dict[str, Any], expected: tuple[object, ...]) -> None:
    sbatch = {"reservation": "r", "nodelist": "n[1-4]", "exclusive": True, "mail-type": "END", "hold": True}
    request = one_task(ClusterSpec(partition="p", account="a", sbatch=sbatch, **cluster))
    assert (request.num_tasks_per_node, request.gpus_per_node, request.mem, request.time) == expected
    assert (request.nodes, request.requeue, request.partition, request.account) == (1, "off", "p", "a")
    assert request.sbatch == {"reservation": "r"}


def test_script_has_environment_of_training(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    cluster = ClusterSpec(gpus_per_node=4, setup=["module load x"], env={"A": "1"}, python="/env/python")
    script = evaluation_script(run, Spec(name="run", model="yolov5n", data="d.yaml", cluster=cluster))
    assert "#SBATCH --job-name=run-val\n" in script and "#SBATCH --gpus-per-node=1\n" in script
    assert "\nmodule load x\n" in script and "\nexport A=1\n" in script
    assert f"/env/python -u -m hpc_yolo evaluate-waiting {run.path}\n" in script


def test_task_runs_in_container_of_training_and_last_command_outside(tmp_path: Path) -> None:
    container = ContainerSpec(image="/images/train.sif", runtime="apptainer")
    cluster = ClusterSpec(gpus_per_node=4, container=container)
    spec = Spec(name="run", model="yolov5n", data=str(tmp_path / "d.yaml"), cluster=cluster)
    script = evaluation_script(RunDirectory(tmp_path / "run"), spec)
    (tasks,) = [line for line in script.splitlines() if line.startswith("srun ")]
    assert "apptainer exec" in tasks and tasks.endswith(f"-m hpc_yolo evaluate-waiting {tmp_path}/run")
    assert script.splitlines()[-1].startswith(f"exec {sys.executable} -m hpc_yolo evaluate-waiting")
