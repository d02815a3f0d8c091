"""`hpc-yolo submit` as a process, with small programs in place of Slurm's commands."""

from __future__ import annotations

import itertools
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from waiting import PATIENCE_S

from hpc_yolo.cli.submission import notice_after
from hpc_yolo.core.errors import RunError, SpecError
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.launch.plan import Plan, make_plan
from hpc_yolo.launch.prepare import prepare_run, submitted_spec
from hpc_yolo.launch.submit import job_environment
from hpc_yolo.launch.submit import submit as submit_plan
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import Submission, add_submission, all_submissions
from hpc_yolo.spec.load import Override, load_spec

PING = 'case "$1" in ping) echo "Slurmctld(primary) at head is UP";; *) exit 1;; esac'


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """A directory of programs, first on PATH: a controller that is up and knows no jobs."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name, body in {"scontrol": PING, "squeue": "true", "sacct": "true", "scancel": "true"}.items():
        program(directory / name, body)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return directory


def program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def spec(tmp_path) -> Path:
    data = write_shapes_dataset(tmp_path / "shapes", num_train=4, num_val=2)
    path = tmp_path / "spec.yaml"
    fields = {"name": "run", "model": "yolov5n", "data": str(data), "output": str(tmp_path / "runs")}
    path.write_text(yaml.safe_dump(fields | {"cluster": {"gpus_per_node": 0, "executor": "slurm"}}))
    return path


def submit(spec: Path, *options: str) -> subprocess.Popen[str]:
    message = [sys.executable, "-m", "hpc_yolo", "submit", str(spec), *options]
    return subprocess.Popen(message, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def test_ctrl_c_ends_the_wait_for_a_slow_sbatch(slurm, spec):
    """Nothing was printed while sbatch tried again and again, and Ctrl-C was ignored."""
    program(slurm / "sbatch", "exec sleep 600")
    with submit(spec) as process:
        assert process.stderr is not None
        before = list(
            itertools.takewhile(lambda line: "waiting for sbatch; Ctrl-C gives up" not in line, process.stderr)
        )
        assert process.poll() is None, before
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1] == "interrupted: nothing is queued so far"


def test_no_notice_before_its_time(capsys):
    with notice_after(PATIENCE_S, "waiting"):
        pass
    assert capsys.readouterr() == ("", "")


def test_queued_job_is_printed_and_recorded(slurm, spec, tmp_path):
    program(slurm / "sbatch", "echo 7")
    with submit(spec) as process:
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert "queued as job 7" in output
    assert [one.job_id for one in all_submissions(RunDirectory(tmp_path / "runs" / "run"))] == ["7"]


def test_commands_for_a_run_in_a_path_with_spaces_can_be_typed(slurm, spec, tmp_path):
    program(slurm / "sbatch", "echo 7")
    with submit(spec, "--set", f"output={tmp_path}/my runs") as process:
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    words = [shlex.split(line)[-1] for line in output.splitlines()[-3:]]
    run = tmp_path / "my runs" / "run"
    assert words == [str(run), str(run.parent), str(run / "jobs" / "7.log")]


@pytest.mark.parametrize("state", ["EXPEDITING", "REQUEUE_HOLD", "SPECIAL_EXIT", "A_STATE_OF_27_05"])
def test_job_in_an_unknown_state_is_not_queued_again(slurm, spec, tmp_path, state):
    """Since 25.11 a job may be EXPEDITING: submit queued a second one into its directory."""
    program(slurm / "sbatch", "echo 8")
    program(slurm / "squeue", f"echo '7|{state}|None||N/A|10:00|0:0|'")
    run = RunDirectory(tmp_path / "runs" / "run")
    with submit(spec) as process:  # the first time there is no record of a job
        process.communicate(timeout=PATIENCE_S)
    place = {"host": "h", "num_nodes": 1, "tasks_per_node": 1, "gpus_per_node": 0}
    add_submission(run, Submission(time=1e10, executor="slurm", job_id="7", **place))
    with submit(spec) as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 6
    assert "run is already queued or running, as Slurm job 7" in errors


def test_run_that_is_resumed_by_two_commands_at_once_is_queued_once(slurm, spec, tmp_path):
    """Both found no job and queued one; cancel then ended the later one alone."""
    program(slurm / "sbatch", "echo 7")
    with submit(spec) as process:
        process.communicate(timeout=PATIENCE_S)
    (tmp_path / "began").mkdir()
    both_began = f"touch {tmp_path}/began/$$; until [ $(ls {tmp_path}/began | wc -l) -gt 1 ]; do sleep 0.01; done"
    program(slurm / "sbatch", f"echo 8 >> {tmp_path}/queued; echo 8")
    program(slurm / "squeue", f"{both_began}\n[ ! -e {tmp_path}/queued ] || echo '8|PENDING|None||N/A|10:00|0:0|'")
    commands = [submit(spec), submit(spec)]
    errors = [command.communicate(timeout=PATIENCE_S)[1] for command in commands]
    assert sorted(command.returncode for command in commands) == [0, 6], errors
    assert any("run is already queued or running, as Slurm job 8" in error for error in errors)
    assert (tmp_path / "queued").read_text() == "8\n"


def test_run_that_is_resumed_on_this_machine_by_two_commands_at_once_is_started_once(spec, monkeypatch):
    """Both followed the second job, which found that the first one trained: the first one failed as well."""
    plan = make_plan(load_spec(spec, [Override("cluster.executor", "local", "--local")]))
    prepare_run(plan.run, plan.spec)
    controllers = []

    def start(plan: Plan) -> Submission:
        program = [sys.executable, "-c", "import time; time.sleep(600)", str(plan.run.jobs)]
        controllers.append(subprocess.Popen(program))
        place = {"host": platform.node(), "num_nodes": 1, "tasks_per_node": 1, "gpus_per_node": 0}
        submission = Submission(time=time.time(), executor="local", job_id=str(controllers[-1].pid), **place)
        add_submission(plan.run, submission)
        return submission

    monkeypatch.setattr("hpc_yolo.launch.submit._start_local", start)
    both = [replace(plan, continues=True)] * 2  # made while neither had started
    try:
        submit_plan(both[0])
        with pytest.raises(RunError, match="run is already queued or running, as local job"):
            submit_plan(both[1])
        assert len(controllers) == 1
    finally:
        for controller in controllers:
            controller.kill()
            controller.wait()


def test_resumed_run_says_which_variables_of_the_shell_it_ignores(slurm, spec, monkeypatch):
    """An account that had ended was charged again, without a word about the new one in the shell."""
    program(slurm / "sbatch", "echo 7")
    monkeypatch.setenv("SBATCH_ACCOUNT", "old")
    monkeypatch.setenv("SBATCH_QOS", "long")
    with submit(spec) as process:
        process.communicate(timeout=PATIENCE_S)
    monkeypatch.setenv("SBATCH_ACCOUNT", "new")
    run = spec.parent / "runs" / "run"
    command = [sys.executable, "-m", "hpc_yolo", "resume", str(run)]
    errors = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stderr
    assert "SBATCH_ACCOUNT=new is ignored: run was submitted with another cluster.account" in errors
    assert "--set cluster.account=new changes it" in errors and "SBATCH_QOS" not in errors


def test_run_that_slurm_refuses_may_be_corrected(slurm, spec, tmp_path):
    """A corrected batch was refused as another training, of a run that had never existed for Slurm."""
    program(slurm / "sbatch", "echo 'sbatch: error: Invalid qos specification' >&2; exit 1")
    with submit(spec) as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 4 and "Slurm refuses the job: sbatch: Invalid qos specification" in errors
    run = RunDirectory(tmp_path / "runs" / "run")
    assert not run.exists
    program(slurm / "sbatch", "echo 7")
    with submit(spec, "--set", "train.batch=8", "--set", "train.hyp_overrides={lr0: 0.5}") as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert submitted_spec(run).train.batch == 8
    assert "lr0: 0.5" in (run.inputs / "hyperparameters.yaml").read_text()


def test_submissions_at_the_same_time_get_numbers_of_their_own(slurm, spec, tmp_path):
    """Both took the same number, and the job of the first one trained the spec of the second."""
    (tmp_path / "began").mkdir()
    program(slurm / "sbatch", "echo $$")
    both_began = f"touch {tmp_path}/began/$$; until [ $(ls {tmp_path}/began | wc -l) -gt 1 ]; do sleep 0.01; done"
    program(slurm / "scontrol", f"{both_began}\n{PING}")  # called when the names are chosen
    commands = [submit(spec, "--name", "run-{n}", "--set", f"train.seed={seed}") for seed in (1, 2)]
    for seed, command in enumerate(commands, 1):
        output, errors = command.communicate(timeout=PATIENCE_S)
        assert command.returncode == 0, errors
        run = RunDirectory(Path(output.rpartition("run directory  ")[2].partition(" (")[0]))
        assert submitted_spec(run).train.seed == seed and len(all_submissions(run)) == 1
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["run-1", "run-2"]


def test_sbatch_without_an_answer_reports_that_the_job_may_be_queued(slurm, spec):
    program(slurm / "sbatch", "echo 'sbatch: error: Socket timed out on send/recv operation' >&2; exit 1")
    with submit(spec) as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 5
    assert "the job may be queued anyway" in errors


def test_tasks_on_this_machine_get_expanded_variables(monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    with job_environment({"CACHE": "$SCRATCH/torch", "HUB": "$CACHE/hub"}):
        assert (os.environ["CACHE"], os.environ["HUB"]) == ("/scratch/me/torch", "/scratch/me/torch/hub")
    assert "CACHE" not in os.environ
    with (
        pytest.raises(SpecError, match=r"cluster\.env\.CACHE: the variable NOPE is not set"),
        job_environment({"CACHE": "$NOPE"}),
    ):
        pass
