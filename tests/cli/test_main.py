"""The command line: help, check, render, status, completion."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
import yaml
from click.testing import CliRunner
from journal_events import started

from hpc_yolo.cli.commands import COMMANDS
from hpc_yolo.cli.main import cli
from hpc_yolo.cli.options import read_overrides
from hpc_yolo.core.errors import HpcYoloError, SpecError
from hpc_yolo.data.run_inputs import are_kept
from hpc_yolo.launch.plan import slurm_plan
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, EpochEnded, Evaluated, RankLocation
from hpc_yolo.runs.failures import Failure, write_failure
from hpc_yolo.runs.index import add_to_index, state_directory
from hpc_yolo.runs.journal import JournalWriter
from hpc_yolo.runs.metrics import Metrics
from hpc_yolo.runs.submissions import Submission, add_submission
from hpc_yolo.spec.load import load_spec

ROOT = Path(__file__).parents[2]


def run_cli(*arguments: object):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, (HpcYoloError, SystemExit)):
        raise result.exception
    return result


@pytest.fixture
def spec(tmp_path) -> Path:
    path = tmp_path / "spec.yaml"
    content = {"name": "run", "model": "yolov5n", "data": "data.yaml", "output": str(tmp_path / "runs")}
    path.write_text(yaml.safe_dump(content | {"cluster": {"nodes": 2, "gpus_per_node": 4}}))
    return path


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=lambda names: " ".join(names) or "top")
def test_help_describes_command_without_truncation(command):
    result = run_cli(*command, "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4
    cut_off = [line for line in result.output.splitlines()[1:] if line.endswith("...")]
    assert cut_off == []


@pytest.mark.parametrize(("typed", "meant"), [("statu", "status"), ("cancle", "cancel"), ("sumbit", "submit")])
def test_unknown_command_error_suggests_nearest(typed, meant):
    result = run_cli(typed)
    assert result.exit_code == 2
    assert f"Did you mean '{meant}'?" in result.output


def test_check_reports_all_mistakes(spec):
    spec.write_text("name: run\nmodel: yolov5n\ndata: x\ntrain: {epochs: ten, batch: 7}\nclustre: {}\n")
    result = run_cli("check", spec, "--gpus-per-node", "4")
    assert isinstance(result.exception, SpecError)
    text = str(result.exception)
    for message in ("3 mistakes", "spec.yaml:4:17: train.epochs", "4 or 8", "clustre: unknown field"):
        assert message in text


def test_check_of_valid_spec_prints_summary(spec):
    result = run_cli("check", spec, "--set", "train.epochs=7")
    assert result.exit_code == 0
    assert "7 epochs of batch 16 on 2 nodes x 4 tasks\n" in result.output
    single = ("--nodes", 1, "--gpus-per-node", 1, "--set", "train.epochs=1", "--set", "cluster.python=/my/python")
    assert "1 epoch of batch 16 on 1 node x 1 task, with /my/python\n" in run_cli("check", spec, *single).output
    with pytest.raises(SpecError, match=r"cluster\.setup: line 1: unexpected EOF"):
        raise run_cli("check", spec, "--set", 'cluster.setup=["echo \'open"]').exception


def test_schema_is_json():
    assert json.loads(run_cli("schema").output)["title"] == "hpc-yolo spec"


def test_render_writes_spec_with_options_and_prints_script_of_submit(spec, monkeypatch):
    (spec.parent / "data.yaml").write_text("train: a\nval: b\nnames: [cat]\n")
    options = ("--nodes", "4", "--set", "train.epochs=3", "--set", "cluster.setup=[true]")
    output = run_cli("render", spec, *options).stdout
    assert "#SBATCH --nodes=4\n#SBATCH --ntasks-per-node=4\n#SBATCH --gpus-per-node=4" in output
    run = RunDirectory(spec.parent / "runs" / "run")
    assert load_spec(run.spec).train.epochs == 3
    assert are_kept(run)
    assert f"-m hpc_yolo train {run.path}\n" in output
    overrides = read_overrides(("train.epochs=3", "cluster.setup=[true]"), {"nodes": "4"})
    assert output == slurm_plan(load_spec(spec, overrides), run, "", {}).script
    monkeypatch.setenv("PATH", str(spec.parent))
    assert run_cli("render", spec, *options).stdout == output


def test_render_without_readable_dataset_leaves_copies_to_job(spec):
    result = run_cli("render", spec)
    assert result.exit_code == 0
    assert "data.yaml: not found here; the first attempt of the job copies the run's inputs" in result.stderr
    assert not are_kept(RunDirectory(spec.parent / "runs" / "run"))


def test_render_refuses_invalid_shell_syntax(spec):
    result = run_cli("render", spec, "--set", "cluster.setup=['if true; then', 'fi', 'fi']")
    assert isinstance(result.exception, SpecError)
    assert "cluster.setup: line 2: syntax error" in str(result.exception)
    assert not (spec.parent / "runs").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_exists_for_shell(shell):
    assert "_HPC_YOLO_COMPLETE" in run_cli("completion", shell).output


def test_bash_completion_script_is_valid():
    script = run_cli("completion", "bash").output
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_status_without_runs_suggests_submit(tmp_path):
    assert "hpc-yolo submit" in run_cli("status", "--root", tmp_path).output
    assert json.loads(run_cli("status", "--root", tmp_path, "--json").output) == []


def make_run(root: Path, name: str, *, ended: str | None, submitted: bool = True) -> RunDirectory:
    """Create the files of a run of two ranks."""
    run = RunDirectory(root / name)
    run.create()
    run.spec.write_text("name: run\n")
    if submitted:
        submission = Submission(
            time=10.0, executor="local", job_id="1", host="elsewhere", num_nodes=1, tasks_per_node=2, gpus_per_node=0
        )
        add_submission(run, submission)
    journal = JournalWriter(run.journal, attempt=1, clock=lambda: 20.0)
    ranks = [RankLocation(rank=rank, local_rank=rank, node_rank=0, host="h", pid=1) for rank in range(2)]
    sizes = {"world_size": 2, "batch": 16, "epochs": 4, "num_images": 80}
    journal.write(started(job_id="1", launcher="submitit-local", ranks=ranks, **sizes))
    losses = {"box": 0.1, "obj": 0.02, "cls": 0.03}
    journal.write(EpochEnded(epoch=1, step=10, losses=losses, lr=0.01, images_per_s=50.0, seconds=3.0))
    journal.write(
        Evaluated(
            epoch=1, step=10, num_images=8, metrics=Metrics(map50=0.625, map50_95=0.5), images_per_s=9.0,
            seconds=1.0, is_best=True, classes=[],
        )
    )  # fmt: skip
    if ended is not None:
        journal.write(AttemptEnded(outcome=ended, epoch=1, step=10, detail="why"))
    return run


@pytest.mark.parametrize(
    ("ended", "state"),
    [("finished", "done"), ("failed", "failed"), ("stopped", "stopped"), (None, "running")],
)
def test_status_shows_state_and_metrics_of_run(tmp_path, ended, state):
    make_run(tmp_path, "first", ended=ended)
    (row,) = json.loads(run_cli("status", "--root", tmp_path, "--json").output)
    assert row["state"] == state
    expected = {"job_id": "1", "num_nodes": 1, "tasks_per_node": 2, "epoch": 1, "epochs": 4, "step": 10, "attempts": 1}
    assert expected.items() <= row.items()
    assert (row["map50"], row["images_per_s"], row["total_steps"]) == (0.625, 50.0, 20)
    table = run_cli("status", "--root", tmp_path).output
    for cell in ("first", state, "1 x 2", "2/4", "10/20", "0.150", "0.625", "0.500", "50.0"):
        assert cell in table


def test_watch_prints_line_of_json_per_refresh(tmp_path):
    make_run(tmp_path, "first", ended=None)
    command = [sys.executable, "-m", "hpc_yolo", "status", "--root", str(tmp_path), "--json", "--watch", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.readline())[0]["step"] == 10
        JournalWriter(tmp_path / "first" / "journal.jsonl", attempt=1).write(
            EpochEnded(epoch=2, step=15, losses={"box": 0.15}, lr=0.01, images_per_s=50.0, seconds=3.0)
        )
        assert json.loads(process.stdout.readline())[0]["step"] == 15
        process.terminate()
    for options in (["--once", "--watch", "1"], ["--watch", "nan"], ["--watch", "inf"]):
        assert run_cli("status", *options).exit_code == 2


def test_status_shows_cause_and_not_its_echo(tmp_path):
    run = make_run(tmp_path, "broken", ended="failed")
    cause = Failure(
        time=15.0, rank=3, host="gpu02", job_id="1", kind="ValueError", message="bad", exit_code=1, is_echo=False,
        traceback="Traceback\nValueError: bad",
    )  # fmt: skip
    write_failure(run, cause)
    write_failure(run, msgspec.structs.replace(cause, time=14.0, rank=0, traceback="connection closed", is_echo=True))
    assert "broken: failed: ValueError: bad" in run_cli("status", "--root", tmp_path).output


def test_run_without_processes_is_lost_and_unsubmitted_run_is_shown(tmp_path):
    run = make_run(tmp_path, "vanished", ended=None)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    submission = Submission(
        time=11.0, executor="local", job_id=str(gone.pid), host=os.uname().nodename, num_nodes=1, tasks_per_node=2,
        gpus_per_node=0,
    )  # fmt: skip
    add_submission(run, submission)
    make_run(tmp_path, "by-hand", ended=None, submitted=False)
    rows = json.loads(run_cli("status", "--root", tmp_path, "--json").output)
    assert [(row["name"], row["state"]) for row in rows] == [("by-hand", "running"), ("vanished", "lost")]


def test_status_prints_whole_lines_into_a_pipe(tmp_path):
    name, cause = "a-long-name-" * 15, " ".join(["why"] * 60)
    run = make_run(tmp_path, name, ended=None)
    JournalWriter(run.journal, attempt=1).write(AttemptEnded(outcome="failed", epoch=0, step=0, detail=cause))
    row, detail = run_cli("status", "--root", tmp_path, "--once").output.splitlines()[1:]
    assert row.startswith(f"{name} ")
    assert detail == f"{name}: failed: {cause}"


def test_status_prints_all_columns_into_a_pipe_with_colours(tmp_path, monkeypatch):
    make_run(tmp_path, "first", ended=None)
    plain = run_cli("status", "--root", tmp_path, "--once").output
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert click.unstyle(run_cli("status", "--root", tmp_path, "--once").output) == plain


def test_follow_of_unsubmitted_run_is_refused(tmp_path):
    make_run(tmp_path, "by-hand", ended=None, submitted=False)
    result = run_cli("follow", tmp_path / "by-hand")
    assert "has no submitted job" in str(result.exception)


def unprivileged(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command without the right of root to read everything."""
    dropped = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*dropped, sys.executable, "-m", "hpc_yolo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_unreadable_run_is_reported_and_others_are_shown(tmp_path):
    """A group keeps its runs in one directory, and a run is private to its owner. Root drops its capabilities here."""
    for name in ("mine", "theirs"):
        make_run(tmp_path, name, ended="finished")
    (tmp_path / "theirs").chmod(0)
    try:
        listed = unprivileged("status", "--root", tmp_path)
        commands = (["logs"], ["report"], ["follow"], ["rm", "--yes"])
        refused = [unprivileged(*command, tmp_path / "theirs") for command in commands]
    finally:
        (tmp_path / "theirs").chmod(0o700)
    assert "mine " in listed.stdout and "theirs" not in listed.stdout
    assert "1 more is not readable, of " in listed.stderr
    assert [done.returncode for done in (listed, *refused)] == [0, 6, 6, 6, 6]
    assert all("is not readable" in done.stderr for done in refused)


def test_closed_runs_directory_here_does_not_hide_the_runs_of_the_index(tmp_path):
    run = make_run(tmp_path / "elsewhere", "mine", ended="finished")
    add_to_index(state_directory(os.environ), run)
    (tmp_path / "runs").mkdir(mode=0)
    listed, status = (unprivileged(*command, cwd=tmp_path) for command in (["list"], ["status", "--once"]))
    assert (listed.stdout, listed.returncode) == (f"{run.path}\n", 0)
    assert "mine " in status.stdout
    assert "./runs is not readable, of " in status.stderr


def test_file_that_is_not_readable_is_named_without_a_traceback(tmp_path):
    run = make_run(tmp_path, "mine", ended="finished")
    run.journal.chmod(0)
    done = unprivileged("logs", "--errors", run.path)
    assert (done.returncode, done.stderr) == (1, f"error: {run.journal}: Permission denied\n")


@pytest.mark.parametrize(("encoding", "shown"), [("latin-1", "\\u732b"), ("utf-8", "猫")])
def test_letter_that_the_locale_lacks_is_an_escape(tmp_path, encoding, shown):
    run = RunDirectory(tmp_path / "猫")
    run.create()
    run.spec.write_text("name: run\n")
    command = [sys.executable, "-m", "hpc_yolo", "track", str(run.path), "--to", "csv"]
    environ = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environ, cwd=ROOT, check=True)
    assert done.stdout == f"{shown}: no step is logged yet\n"


def test_setup_has_letters_that_the_locale_lacks(spec):
    spec.write_text(spec.read_text().replace("cluster:", "cluster:\n  setup: [echo 猫]"), encoding="utf-8")
    environ = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "hpc_yolo", "check", str(spec)]
    done = subprocess.run(command, capture_output=True, env=environ, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_rendered_script_has_the_letters_that_the_locale_lacks(spec):
    command = [sys.executable, "-m", "hpc_yolo", "render", str(spec), "--set", "cluster.setup=['ls /猫']"]
    environ = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, capture_output=True, env=environ, cwd=ROOT, check=True)
    assert "\nls /猫\n" in done.stdout.decode()


def test_closed_pipe_is_no_error():
    script = f"{sys.executable} -m hpc_yolo schema | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["--help", "models", "schema"])
def test_full_disk_under_output_is_reported_with_exit_code(command):
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hpc_yolo", command], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 6
    assert done.stderr == "error: the output cannot be written: No space left on device\n"
