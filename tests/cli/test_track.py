"""hpc-yolo track: which tracker, and what is wrong in one sentence."""

import contextlib
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from growing_journal import LAST_STEP, write_journal
from status_runs import make_run

from hpc_yolo.cli.main import cli
from hpc_yolo.cli.tracker_process import last_message, tracker_process
from hpc_yolo.core.errors import InstallationError, RunError, SpecError, TrackerError
from hpc_yolo.spec.tracking import TrackingSpec
from hpc_yolo.tracking.follower import lock_path

SPEC = "name: coco\nmodel: yolov5n\ndata: data.yaml\n"


@pytest.fixture
def run(tmp_path):
    run = make_run(tmp_path, "coco")
    run.spec.write_text(SPEC)
    return run


def track(run, *arguments):
    return CliRunner().invoke(cli, ["track", str(run.path), *arguments], standalone_mode=False)


def test_tracker_of_the_spec(run):
    run.spec.write_text(SPEC + "tracking: {to: csv, project: mine}\n")
    assert track(run).output == "coco: no step is logged yet\n"
    write_journal(run)
    (found,) = [json.loads(line) for line in track(run, "--json").output.splitlines()]
    assert (found["to"], found["rows"], found["step"]) == ("csv", 200, LAST_STEP)
    assert track(run).output == f"coco: 0 new rows, up to step {LAST_STEP}: {found['location']}\n"


def test_files_in_another_directory(run, tmp_path):
    write_journal(run)
    assert track(run, "--to", "csv", "--dir", str(tmp_path / "new" / "files"), "--follow").exit_code == 0
    assert [path.name for path in (tmp_path / "new" / "files").iterdir() if path.suffix == ".csv"]
    assert not run.tracking.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "its spec names no tracker"),
        (["--to", "csv", "--uri", "http://server"], "--uri: is for mlflow"),
        (["--to", "csv", "--offline"], "--offline: is for wandb"),
        (["--to", "mlflow", "--project", "team/coco"], "--project: 'team/coco' is not the name"),
        (["--to", "wandb", "--project", "a/b/c"], "--project: 'a/b/c' is not the name"),
        (["--to", "mlflow", "--uri", "http://me:secret@server"], "--uri: has a password"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options(arguments, message, run):
    error = track(run, *arguments).exception
    assert isinstance(error, SpecError)
    assert message in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("to", "module", "extra"),
    [
        ("wandb", "wandb", "wandb"),
        ("mlflow", "mlflow.tracking", "mlflow"),
        ("tensorboard", "tensorboard.compat.proto.event_pb2", "tensorboard"),
        ("trackio", "trackio.sqlite_storage", "trackio"),
    ],
)
def test_tracker_that_is_not_installed_names_the_extra(to, module, extra, run, monkeypatch):
    write_journal(run)
    monkeypatch.setitem(sys.modules, module, None)
    error = track(run, "--to", to).exception
    assert isinstance(error, InstallationError)
    assert f"pip install 'hpc-yolo[{extra}]'" in str(error)


@pytest.fixture
def other(tmp_path):
    """Return a run with the name of `run` in another directory."""
    other = make_run(tmp_path / "other", "coco")
    write_journal(other)
    return other


@contextlib.contextmanager
def held_by_another_process(lock):
    program = "import sys; from hpc_yolo.core.files import *; from pathlib import Path\n"
    program += "with exclusive_lock(Path(sys.argv[1])): print('held', flush=True); input()"
    command, pipe = [sys.executable, "-c", program, str(lock)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        yield
        holder.communicate("\n")


@pytest.mark.parametrize("options", [[], ["--follow"]], ids=["once", "follow"])
def test_run_that_is_refused_does_not_keep_others_from_their_tracker(run, other, options):
    write_journal(run)
    run.journal.write_text(run.journal.read_text().replace('"format_version":2', '"format_version":1'))
    result = CliRunner().invoke(cli, ["track", str(run.path), str(other.path), "--to", "csv", *options])
    assert f"error: {run.path}: written by an older version" in result.stderr
    assert "coco: 200 new rows" in result.stdout
    assert result.exit_code == RunError.exit_code


def test_runs_of_one_name_may_be_brought_into_one_directory(run, other, tmp_path):
    write_journal(run)
    files = tmp_path / "files"
    files.mkdir()
    with held_by_another_process(lock_path(run, "csv", files)):
        refused = CliRunner().invoke(cli, ["track", str(run.path), str(other.path), "--to", "csv", "--dir", str(files)])
    assert f"error: {run.path}: another process brings it to csv" in refused.stderr
    assert "coco: 200 new rows" in refused.stdout
    assert refused.exit_code == TrackerError.exit_code


def test_tracker_that_cannot_be_started_stops_nothing_else(run, capsys):
    run.tracking.write_text("a file, as if the directory could not be made")
    with tracker_process(run, TrackingSpec(to="csv"), {}, lambda: True):
        followed = True
    assert followed
    assert (
        f"csv: cannot be started: [Errno 20] Not a directory: '{run.tracking}/process.log'" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", ""),
        ("wandb: syncing\ncoco: 3 new rows\n", "coco: 3 new rows"),
        (
            f"a\n{TrackerError('no answer', hint='--offline')}; is tried again\n",
            "no answer; hint: --offline; is tried again",
        ),
    ],
)
def test_last_message_of_the_process_has_its_reason(output, message):
    assert last_message(output) == message


def test_csv_file_that_another_program_has_saved_is_named(run):
    write_journal(run)
    assert track(run, "--to", "csv").exit_code == 0
    (path,) = run.tracking.glob("*.csv")
    path.write_bytes("step,café\n".encode("latin-1"))
    error = track(run, "--to", "csv").exception
    assert isinstance(error, TrackerError)
    assert f"no CSV file in UTF-8; move it away for a new one: '{path}'" in str(error)
    path.unlink()
    assert "200 new rows" in track(run, "--to", "csv").output
