"""Run directories are recognised by what only they have; a person's own directory with a spec.yaml is none."""

import json

import pytest
from click.testing import CliRunner

from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import RunError
from hpc_yolo.launch.actions import remove_run
from hpc_yolo.launch.prepare import prepare_run, require_same_training
from hpc_yolo.launch.yolov5_flags import newest_run, resumed_spec
from hpc_yolo.runs.directory import RunDirectory, find_runs
from hpc_yolo.runs.index import find_run
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import Spec

SPEC = "name: project\nmodel: yolov5n\ndata: data.yaml\ntrain: {imgsz: 640, epochs: 3}\n"
OURS = json.dumps({"hpc_yolo": "0.1.0", "command": "hpc-yolo submit spec.yaml"})
LAYOUTS = [
    ("a spec beside weights", {"spec.yaml": SPEC, "weights/best.safetensors": ""}, False),
    ("a spec beside checkpoints", {"spec.yaml": SPEC, "checkpoints/last.safetensors": ""}, False),
    ("a spec beside jobs", {"spec.yaml": SPEC, "jobs/1.log": "", "checkpoints/best.safetensors": ""}, False),
    ("another program's origin", {"spec.yaml": SPEC, "origin.json": '{"url": "https://example.org"}'}, False),
    ("a journal", {"spec.yaml": SPEC, "journal.jsonl": "{}\n"}, False),
    ("no spec", {"leases/1": "", "origin.json": OURS}, False),
    ("a spec that is a directory", {"spec.yaml/x": "", "origin.json": OURS}, False),
    ("the oldest runs", {"spec.yaml": SPEC, "origin.json": OURS, "checkpoints/last.safetensors": ""}, True),
    ("a run without its origin", {"spec.yaml": SPEC, "leases/1": "", "checkpoints/last.safetensors": ""}, True),
]


def lay_out(directory, files):
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


@pytest.mark.parametrize(("files", "is_run"), [row[1:] for row in LAYOUTS], ids=[row[0] for row in LAYOUTS])
def test_run_directory_is_recognised_by_leases_or_origin(files, is_run, tmp_path):
    directory = lay_out(tmp_path / "found", files)
    assert RunDirectory(directory).exists is is_run
    assert find_runs(tmp_path) == ([RunDirectory(directory)] if is_run else [])


def test_prepared_run_is_recognised_before_its_first_attempt(tmp_path):
    run = RunDirectory(tmp_path / "run")
    data = tmp_path / "data.yaml"
    data.write_text("train: a\nval: b\nnames: [cat]\n")
    prepare_run(run, Spec(name="run", model="yolov5n", data=DataSpec(path=str(data))))
    assert run.exists


@pytest.fixture
def project(tmp_path):
    return lay_out(tmp_path / "project", {"spec.yaml": SPEC, "checkpoints/last.safetensors": "", "data.yaml": ""})


def test_project_directory_is_never_removed_or_resumed_as_a_run(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for refuse in (
        lambda: remove_run(RunDirectory(project)),
        lambda: find_run(str(project), []),
        lambda: newest_run(tmp_path),
        lambda: resumed_spec(str(project / "checkpoints" / "last.safetensors"), []),
    ):
        with pytest.raises(RunError):
            refuse()
    result = CliRunner().invoke(cli, ["rm", str(project), "--yes"])
    assert isinstance(result.exception, RunError) and (project / "data.yaml").exists()


def test_spec_of_the_user_is_not_overwritten(project):
    spec = Spec(name="project", model="yolov5n", data=DataSpec(path="data.yaml"))
    with pytest.raises(RunError, match=r"has a spec\.yaml but is not a run directory"):
        require_same_training(RunDirectory(project), spec)
    assert (project / "spec.yaml").read_text() == SPEC


@pytest.mark.parametrize(
    ("path", "expected"),
    [("checkpoints/best.safetensors", True), ("exports/best.safetensors", False), ("best.safetensors", False)],
)
def test_only_files_in_its_checkpoints_belong_to_a_run(path, expected, tmp_path):
    run = RunDirectory(lay_out(tmp_path / "run", {"spec.yaml": SPEC, "leases/1": "", path: ""}))
    assert run.holds_checkpoint(run.path / path) is expected
