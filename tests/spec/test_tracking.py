"""The section tracking: what it may hold."""

import pytest

from hpc_yolo.launch.plan import Plan
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.load import dump_spec, load_resolved_spec
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.tracking import TrackingSpec


@pytest.mark.parametrize(
    ("written", "problem", "allowed"),
    [
        ("{}", "tracking.to: is missing", "wandb, mlflow, tensorboard, csv, trackio"),
        ("{to: neptune}", "tracking.to: 'neptune' is not allowed", "wandb, mlflow, tensorboard, csv, trackio"),
        ("{to: csv, uri: 'http://server'}", "tracking.uri: is for mlflow, and tracking.to is csv", "leave it out"),
        ("{to: mlflow, offline: true}", "tracking.offline: is for wandb", "leave it out"),
        ("{to: wandb, project: ''}", "tracking.project: '' is not the name of a project", "entity/project"),
        ("{to: wandb, project: a/b/c}", "tracking.project: 'a/b/c' is not the name", "entity/project"),
        ("{to: mlflow, project: a/b}", "tracking.project: 'a/b' is not the name", "a name"),
        ("{to: csv, in: job_of_its_own}", "tracking.in: 'job_of_its_own' is not allowed", "job, submit"),
    ],
)
def test_mistake_is_reported_with_what_is_allowed(spec_file, written, problem, allowed):
    found = [one for one in spec_file.add(f"tracking: {written}\n").problems() if problem in one]
    assert len(found) == 1 and f"{spec_file.path}:4:" in found[0] and allowed in found[0]


def test_password_in_an_address_is_refused_and_not_shown(spec_file):
    (found,) = spec_file.add("tracking: {to: mlflow, uri: 'http://me:pa55-w0rd@server'}\n").problems()
    assert "password" in found and "pa55" not in found


@pytest.mark.parametrize("uri", ["sqlite:////runs/mlflow.db", "http://server:5000", "http://[", "databricks"])
def test_address_without_password_is_accepted(spec_file, uri):
    assert spec_file.add(f"tracking: {{to: mlflow, uri: '{uri}'}}\n").problems() == []


@pytest.mark.parametrize(
    ("tracking", "in_script", "decision"),
    [
        (TrackingSpec(to="csv"), True, "csv, beside the tasks of each job"),
        (TrackingSpec(to="wandb", where="submit"), False, "wandb, on this host with --follow, else by hpc-yolo track"),
        (None, False, None),
    ],
    ids=["job", "submit", "none"],
)
def test_job_starts_the_tracker_that_it_is_to(tracking, in_script, decision, tmp_path):
    spec = Spec(name="coco", model="yolov5n", data=DataSpec(path="d.yaml"), tracking=tracking)
    plan = Plan(spec, RunDirectory(tmp_path), "slurm", "", 1, 1, 1, continues=False)
    assert (f"track-beside {tmp_path} &\n" in plan.script) is in_script
    assert dict(plan.decisions()).get("tracking") == decision


def test_section_is_the_same_in_a_run_directory(tmp_path):
    spec = Spec(
        name="coco", model="yolov5n", data=DataSpec(path="/d.yaml"), tracking=TrackingSpec(to="wandb", where="submit")
    )
    path = tmp_path / "spec.yaml"
    path.write_text(dump_spec(spec))
    assert load_resolved_spec(path).tracking == spec.tracking
