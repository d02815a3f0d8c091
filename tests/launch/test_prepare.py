"""The run directory before a task starts."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import HpcYoloError, NameTakenError, RunError
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.launch.plan import planned_run
from hpc_yolo.launch.prepare import prepare_run, spec_to_resume, submitted_spec
from hpc_yolo.launch.yolov5_flags import resumed_spec
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.load import Override
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.train import TrainSpec

OLD_JOURNAL = b'{"event":"attempt_started","time":1.0,"attempt":1,"format_version":1,"job_id":"7"}\n'


@pytest.fixture
def old_run(run: RunDirectory) -> RunDirectory:
    """A run of an older version, whose spec has a field that this version does not know."""
    run.spec.write_text(f"name: run\nmodel: yolov5n\ndata: d.yaml\nnetwork: old\noutput: {run.path.parent}\n")
    run.origin.write_text('{"hpc_yolo": "0.0"}\n')
    run.journal.write_bytes(OLD_JOURNAL)
    return run


def test_run_of_an_older_version_is_refused_before_its_spec_is_read(old_run: RunDirectory) -> None:
    """The message named the unknown field instead, which the user cannot mend."""
    with pytest.raises(RunError, match=r"written by an older version of hpc-yolo \(journal format 1"):
        submitted_spec(old_run)


@pytest.mark.parametrize(
    "command", [("resume",), ("train",), ("train", "--resume"), ("after-job", "--exit-code", "1")], ids=" ".join
)
def test_commands_on_a_run_of_an_older_version_end_with_that_message(
    old_run: RunDirectory, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, [*command, str(old_run.path)])
    assert isinstance(result.exception, RunError)
    assert "written by an older version" in str(result.exception)


def test_of_two_commands_that_found_the_name_free_one_creates_the_run(tmp_path: Path) -> None:
    """The second one replaced the spec of the job that the first one had queued."""
    data = write_shapes_dataset(tmp_path / "shapes", num_train=1, num_val=1)
    run = RunDirectory(tmp_path / "run")
    spec = Spec(name="run", model="yolov5n", data=DataSpec(path=str(data)), output=str(tmp_path))
    other = msgspec.structs.replace(spec, train=TrainSpec(seed=7))
    prepare_run(run, spec, is_new=True)
    with pytest.raises(NameTakenError, match="another command has submitted a run of this name at the same time"):
        prepare_run(run, other, is_new=True)
    assert submitted_spec(run) == spec


@pytest.fixture
def prepared(tmp_path: Path) -> RunDirectory:
    """A run called `run` in `before/`, beside an empty directory `after/`."""
    data = write_shapes_dataset(tmp_path / "shapes", num_train=1, num_val=1)
    run = RunDirectory(tmp_path / "before" / "run")
    spec = Spec(name="run", model="yolov5n", data=DataSpec(path=str(data)), output=str(run.path.parent))
    prepare_run(run, spec, is_new=True)
    (tmp_path / "after").mkdir()
    return run


@pytest.mark.parametrize("location", ["before/run", "after/run", "link/run", "set #2: new/run"])
def test_resumed_run_stays_in_its_directory_where_that_was_moved(prepared: RunDirectory, location: str) -> None:
    """Its steps were done again, in a new run at the location that the directory had before."""
    root = prepared.path.parents[1]
    (root / "link").symlink_to(root / "after")
    run = RunDirectory(root / location)
    run.path.parent.mkdir(exist_ok=True)
    prepared.path.rename(run.path)
    overrides = [Override("train.epochs", "7", "--epochs"), Override("name", "run", "--name")]
    for spec in (spec_to_resume(run, overrides), resumed_spec(str(run.path), [])):
        assert planned_run(spec).path == run.path


@pytest.mark.parametrize("written", ["latest", "after/run/checkpoints/.."])
def test_moved_run_is_resumed_through_a_link_or_path_of_another_name(prepared: RunDirectory, written: str) -> None:
    root = prepared.path.parents[1]
    (root / "latest").symlink_to(root / "after" / "run")
    prepared.path.rename(root / "after" / "run")
    for spec in (spec_to_resume(RunDirectory(root / written), []), resumed_spec(str(root / written), [])):
        assert planned_run(spec).path == root / "after" / "run"


@pytest.mark.parametrize(
    ("location", "overrides", "message"),
    [
        ("after/other", [], r"is the directory of run run, renamed or copied; a run keeps its name"),
        ("before/run", [Override("name", "other", "--name")], r"--name: a run that is resumed stays in its directory"),
        ("after/run", [Override("output", "else", "--set")], r"--set: a run that is resumed stays in its directory"),
    ],
)
def test_run_is_not_resumed_in_another_directory(
    prepared: RunDirectory, location: str, overrides: list[Override], message: str
) -> None:
    run = RunDirectory(prepared.path.parents[1] / location)
    prepared.path.rename(run.path)
    for resume in (lambda: spec_to_resume(run, overrides), lambda: resumed_spec(str(run.path), overrides)):
        with pytest.raises(HpcYoloError, match=message):
            resume()
