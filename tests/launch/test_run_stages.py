"""Stages run as processes: what is recorded of them, and when they are not begun or ended early."""

import multiprocessing
import os
import signal
import subprocess
import time

import pytest
from waiting import wait_until

from hpc_yolo.cluster.local_process import process_start
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.launch import run_stages
from hpc_yolo.launch.run_stages import job_end, run_job_stages, run_local_stages
from hpc_yolo.runs.events import Cause
from hpc_yolo.runs.run_end import RunEnd
from hpc_yolo.runs.stages import read_stages
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.stages import Stage

FINISHED = RunEnd(2, True, Cause.FINISHED)
IN_JOB = ProcessInfo.alone({"SLURM_JOB_ID": "7"})


def spec_of(*stages):
    return Spec(
        name="run",
        data=DataSpec(path="d.yaml"),
        then=[Stage(shell=stage) if isinstance(stage, str) else stage for stage in stages],
    )


@pytest.fixture
def job_ends_in(monkeypatch):
    """Set how many seconds the job has left."""

    def set_left(left_s):
        monkeypatch.setattr(run_stages, "job_end", lambda _process: None if left_s is None else time.time() + left_s)

    return set_left


@pytest.mark.parametrize(
    ("shell", "state", "exit_code", "detail"),
    [
        ("echo out; echo err >&2", "done", 0, "in 0 s"),
        ("false\necho not reached", "failed", 1, "exit code 1; its output is in stages/shell-7.log"),
        ("exit 7", "failed", 7, "exit code 7"),
        ("kill -9 $$", "failed", 137, "killed by SIGKILL"),
        ('read line; [ -z "$line" ]', "failed", 1, "exit code 1"),
    ],
    ids=["done", "first line fails", "exit", "killed", "no input"],
)
def test_result_of_a_stage_is_recorded(run, job_ends_in, capfd, shell, state, exit_code, detail):
    job_ends_in(None)
    run_job_stages(run, spec_of(shell), IN_JOB, FINISHED)
    (record,) = read_stages(run)
    assert (record.state, record.exit_code, record.end, record.job_id) == (state, exit_code, 2, "7")
    assert record.detail.startswith(detail) and record.ended is not None
    log = (run.path / record.log).read_text()
    assert "not reached" not in log
    assert ("out\nerr\n" in log) == (state == "done"), "output goes to the file of the stage"
    assert capfd.readouterr().out == f"hpc-yolo: stage shell: {record.state}, {record.detail}\n"


def test_stages_of_the_job_run_in_order_and_a_failed_one_stops_none(run, job_ends_in):
    job_ends_in(3600)
    spec = spec_of(
        "echo 1 >> $RUN/notes; exit 1",
        Stage(shell="echo own >> $RUN/notes", where="job_of_its_own"),
        Stage(shell="echo failure >> $RUN/notes", when="failure"),
        Stage(shell="echo always >> $RUN/notes", when="always"),
        "echo $STAGE of $NAME >> $RUN/notes",
    )
    for _ in range(2):  # a second call, as after a further start of the job, runs none again
        run_job_stages(run, spec, IN_JOB, FINISHED)
    assert (run.path / "notes").read_text() == "1\nalways\nshell-5 of run\n"


@pytest.mark.parametrize(
    ("left_s", "refusal", "detail"),
    [(42.0, "", "only 42 s are left of the time of job 7"), (-5.0, "", "only 0 s"), (900.0, "no", "no")],
)
def test_stage_without_time_is_recorded_as_not_run(run, job_ends_in, left_s, refusal, detail):
    job_ends_in(left_s)
    run_job_stages(run, spec_of("touch $RUN/began"), IN_JOB, FINISHED, refusal=refusal)
    (record,) = read_stages(run)
    assert record.state == "not run" and record.detail.startswith(detail)
    assert not (run.path / "began").exists()


def test_stage_is_ended_shortly_before_the_time_limit(run, job_ends_in, monkeypatch):
    monkeypatch.setattr(run_stages, "MIN_LEFT_S", 0.0)
    monkeypatch.setattr(run_stages, "STOP_S", 0.1)
    job_ends_in(run_stages.END_MARGIN_S + 0.2)
    run_job_stages(run, spec_of("trap '' TERM; while :; do sleep 0.05; done"), IN_JOB, FINISHED)
    (record,) = read_stages(run)
    assert (record.state, record.detail) == ("failed", "ended shortly before the time limit of job 7")


def test_processes_of_a_stage_end_with_the_one_that_follows_the_run(run):
    """Else they would go on beside those of the next try."""
    shell = """
        (trap 'touch $RUN/ended; exit' TERM; touch $RUN/begun; for i in $(seq 500); do sleep 0.02; done) &
        while [ ! -e $RUN/begun ]; do sleep 0.02; done
        kill -TERM $PPID
        wait
    """
    arguments = (run, spec_of(shell), FINISHED, {"shell": 1})
    follower = multiprocessing.get_context("fork").Process(target=run_local_stages, args=arguments)
    follower.start()
    follower.join()
    assert follower.exitcode == 128 + signal.SIGTERM
    wait_until((run.path / "ended").exists, "the end of the child of the stage")


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_signal_while_a_stage_is_started_ends_it(run, monkeypatch, number, error):
    start, started = subprocess.Popen, []

    def start_and_signal(*arguments, **options):
        started.append(start(*arguments, **options))
        os.kill(os.getpid(), number)
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start_and_signal)
    with pytest.raises(error):
        run_local_stages(run, spec_of("sleep 60"), FINISHED, {"shell": 1})
    assert [child.poll() is not None for child in started] == [True]


def test_second_signal_ends_a_stage_that_does_not_end_at_the_first(run):
    """It went on in a process group of its own, where no key of the terminal reaches it."""
    shell = "trap '' TERM; echo $$ > $RUN/pid; kill -TERM $PPID; sleep 0.5; kill -TERM $PPID; sleep 60"
    arguments = (run, spec_of(shell), FINISHED, {"shell": 1})
    follower = multiprocessing.get_context("fork").Process(target=run_local_stages, args=arguments)
    follower.start()
    follower.join()
    assert process_start(int((run.path / "pid").read_text())) is None


def test_command_that_does_not_exist_is_a_failed_stage(run, monkeypatch):
    monkeypatch.setattr(run_stages, "stage_command", lambda *_arguments: ["/nowhere/python"])
    assert not run_local_stages(run, spec_of("true"), FINISHED, {"shell": 1})
    (record,) = read_stages(run)
    assert (record.state, record.detail) == ("failed", "/nowhere/python: No such file or directory")


def test_local_stages_are_done_if_each_is(run):
    spec = spec_of("true", "[ -e $RUN/repaired ]")
    assert not run_local_stages(run, spec, FINISHED, {"shell": 1, "shell-2": 1})
    (run.path / "repaired").touch()
    assert run_local_stages(run, spec, FINISHED, {"shell-2": 2})
    assert [(record.stage, record.number, record.state) for record in read_stages(run)] == [
        ("shell", 1, "done"),
        ("shell-2", 1, "failed"),
        ("shell-2", 2, "done"),
    ]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, None), ({"SLURM_JOB_END_TIME": "1795671523"}, 1795671523.0), ({"SLURM_JOB_END_TIME": "x"}, None)],
)
def test_end_of_the_job_comes_from_the_environment_where_slurm_does_not_answer(monkeypatch, variables, expected):
    monkeypatch.setattr(run_stages, "own_job_record", lambda _process: None)
    monkeypatch.setattr(run_stages, "current_environment", lambda: variables)
    assert job_end(IN_JOB) == expected
    assert job_end(ProcessInfo.alone({})) is None
