"""Cancelling, finding and removing runs: never the wrong process, never a run in training."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import yaml
from click.testing import CliRunner
from status_runs import START, append_events, make_run
from waiting import PATIENCE_S

from hpc_yolo.cli.main import cli
from hpc_yolo.cluster.local_process import machine_id, process_start
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import RunError
from hpc_yolo.launch.actions import cancel_run, remove_run, requeue_run
from hpc_yolo.resilience.lease import Heartbeat, take_lease
from hpc_yolo.runs.index import add_to_index, find_run, state_directory
from hpc_yolo.runs.stages import RUNNING, StageRecord, claim_stage, write_stage
from hpc_yolo.runs.submissions import Submission, add_submission


def submit_locally(run, pid: int, host: str = os.uname().nodename) -> None:
    place = {"host": host, "num_nodes": 1, "tasks_per_node": 1, "gpus_per_node": 0}
    add_submission(run, Submission(time=10.0, executor="local", job_id=str(pid), **place))


def sleeper(*arguments: str) -> subprocess.Popen:
    """Start a process and return it once /proc shows its arguments."""
    program = "import time; print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
    return process


def test_local_run_is_removed_only_after_it_was_cancelled(tmp_path):
    run = make_run(tmp_path, "first", executor=None)
    controller = sleeper(str(run.jobs))  # as submitit's is named
    try:
        submit_locally(run, controller.pid)
        with pytest.raises(RunError, match="queued or running"):
            remove_run(run)
        with pytest.raises(RunError, match="only Slurm jobs"):
            requeue_run(run)
        assert "cancelled local job" in cancel_run(run)
        assert controller.wait(timeout=PATIENCE_S) == -15
    finally:
        controller.kill()
        controller.wait()
    with pytest.raises(RunError, match="has already ended"):
        cancel_run(run)
    remove_run(run)
    assert list(tmp_path.iterdir()) == []


def test_reused_process_id_is_not_killed(tmp_path):
    run = make_run(tmp_path, "first", executor=None)
    stranger = sleeper()
    try:
        submit_locally(run, stranger.pid)
        with pytest.raises(RunError, match="has already ended"):
            cancel_run(run)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_local_job_of_another_host_cannot_be_cancelled(tmp_path):
    run = make_run(tmp_path, "first", executor=None)
    submit_locally(run, os.getpid(), host="elsewhere")
    with pytest.raises(RunError, match="elsewhere"):
        cancel_run(run)


def test_run_whose_stage_runs_here_is_not_removed_and_cancel_names_the_stage(tmp_path):
    run = make_run(tmp_path, "staged", executor=None)
    here = {"machine": machine_id(), "pid": os.getpid(), "pid_start": process_start(os.getpid())}
    record = StageRecord(stage="val", end=1, number=1, state=RUNNING, began=10.0, **here)
    assert claim_stage(run, record)
    submit_locally(run, pid=2**22)  # of the training, which has ended
    for action in (remove_run, cancel_run):
        with pytest.raises(RunError, match="its stage val runs on this machine"):
            action(run)
    write_stage(run, msgspec.structs.replace(record, pid_start=-1))  # of a process that has ended
    remove_run(run)
    assert not run.path.exists()


def test_run_with_a_live_lease_is_not_removed(tmp_path):
    run = make_run(tmp_path, "first", executor=None)
    with Heartbeat(take_lease(run, ProcessInfo.from_env({}))), pytest.raises(RunError, match="is training it"):
        remove_run(run)
    remove_run(run)
    assert not run.path.exists()


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_path_that_is_not_a_run_directory_is_not_removed(tmp_path, kind):
    target = make_run(tmp_path, "first", executor=None)
    path = tmp_path / "other"
    if kind == "link":
        path.symlink_to(target.path)
    else:
        path.mkdir()
        (path / "precious").write_text("")
    with pytest.raises(RunError, match="is not a run directory"):
        remove_run(type(target)(path))
    assert path.exists()
    assert target.exists


def test_run_is_found_by_name_or_path_and_a_misspelt_name_gets_a_suggestion(tmp_path):
    first, second = make_run(tmp_path / "a", "first"), make_run(tmp_path / "b", "second")
    twin = make_run(tmp_path / "b", "first")
    assert find_run("second", [first, second]) == second
    assert find_run(str(twin.path), [first, second]) == twin
    with pytest.raises(RunError, match="did you mean second"):
        find_run("secnd", [first, second])
    for written in ("third", "/old/third"):
        with pytest.raises(RunError, match="the run that was at /old/third has been moved or removed"):
            find_run(written, [first, second], [Path("/old/third")])
    with pytest.raises(RunError, match=r"several runs.*b/first"):
        find_run("first", [first, second, twin])


def test_name_of_a_run_elsewhere_and_of_a_directory_here_is_ambiguous(tmp_path, monkeypatch):
    here, elsewhere = make_run(tmp_path / "here", "first"), make_run(tmp_path / "elsewhere", "first")
    monkeypatch.chdir(tmp_path / "here")
    for known in ([elsewhere], [elsewhere, here]):
        with pytest.raises(RunError, match="several runs have that name"):
            find_run("first", known)
    assert find_run("first", [here]).path == find_run("./first", [elsewhere]).path == here.path


def run_cli(*arguments: object):
    return CliRunner().invoke(cli, [str(word) for word in arguments])


def test_runs_are_listed_logged_and_removed_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # runs in ./runs are listed, too, such as that of make demo
    run = make_run(tmp_path, "first", executor=None)
    add_to_index(state_directory(os.environ), run)
    assert run_cli("list").output == f"{run.path}\n"
    assert isinstance(run_cli("logs", "first").exception, RunError)
    (run.jobs / "7.log").write_text("".join(f"line {number}\n" for number in range(100)))
    assert run_cli("logs", "first", "-n", 2).output.splitlines() == ["line 98", "line 99"]
    refused = run_cli("rm", "first")
    assert "confirm with --yes" in refused.output, "no terminal to ask on"
    assert isinstance(run_cli("rm", "first", "frist", "--yes").exception, RunError)
    assert run.exists, "one unknown name: nothing is removed"
    run.path.rename(tmp_path / "elsewhere")
    assert (run_cli("list").output, run_cli("list", "--all").output) == ("", f"{run.path} (moved or removed)\n")
    (tmp_path / "elsewhere").rename(run.path)
    assert run_cli("rm", "first", "--yes").output == f"removed {run.path}\n"
    assert run_cli("list", "--all").output == "", "a removed run leaves the index"


def test_resume_uses_the_spec_of_the_run(tmp_path, monkeypatch):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    (tmp_path / "data.yaml").write_text("train: train\nval: val\nnames: [thing]\n")
    run = make_run(tmp_path / "runs", "first", executor=None)
    spec = {"name": "first", "model": "yolov5n", "data": f"{tmp_path}/data.yaml", "output": f"{tmp_path}/runs"}
    run.spec.write_text(yaml.safe_dump(spec | {"cluster": {"executor": "local", "gpus_per_node": 0}}))
    append_events(run, START)
    plans = []
    monkeypatch.setattr("hpc_yolo.cli.resume.carry_out", lambda plan, **options: plans.append(plan))
    result = run_cli("resume", run.path, f"{run.path}/")  # once, however often it is named
    assert result.exception is None, result.exception
    assert [(Path(plan.run.path), plan.executor) for plan in plans] == [(run.path, "local")]
