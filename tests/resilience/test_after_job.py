"""The last line of a batch script, after its tasks have ended. Slurm's commands are small programs here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner
from journal_events import ranks_on, started

from hpc_yolo.cli.main import cli
from hpc_yolo.cluster.process import LOOPBACK, ProcessInfo
from hpc_yolo.core.files import write_atomic
from hpc_yolo.resilience import job_evidence
from hpc_yolo.resilience.after_job import conclude_job
from hpc_yolo.resilience.job_evidence import job_peak_bytes, own_log, since_start
from hpc_yolo.resilience.lease import take_lease
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, Cause
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.runs.submissions import Submission, add_submission
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.load import dump_spec
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.stages import Stage

SHOWN = "JobId=7 JobName=run JobState={} Reason=None Requeue=1 Restarts={} PreemptTime={}"
RUNNING = SHOWN.format("RUNNING", 0, "None")
CANCELLED = SHOWN.format("COMPLETING", 0, "None")
PREEMPTED = SHOWN.format("RUNNING", 0, "2026-11-25T18:00:00")
WHEN = ("success", "failure", "always")
REQUEUE, NO_MORE = "requeue 7", "update JobId=7 Requeue=0"


class Slurm:
    """scontrol, sacct and scancel. `asked`: what scontrol was asked to change."""

    def __init__(self, directory: Path) -> None:
        self.shown, self.accounting, self.log = directory / "shown", directory / "accounting", directory / "asked"
        self.refuses = directory / "refuses"
        self.shown.write_text(RUNNING)
        self.accounting.touch()
        self.log.touch()
        change = f'[ ! -e {self.refuses} ] || exit 1; echo "$@" >> {self.log}'
        scontrol = f'case "$*" in *show*) cat {self.shown};; *) {change};; esac'
        programs = {"scontrol": scontrol, "sacct": f"cat {self.accounting}", "scancel": "true", "squeue": "true"}
        for name, body in programs.items():
            (directory / name).write_text(f"#!/bin/sh\n{body}\n")
            (directory / name).chmod(0o755)

    @property
    def asked(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Slurm:
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "test")
    return Slurm(directory)


@pytest.fixture
def log(monkeypatch) -> list[str]:
    """The job's log; lines may be added."""
    lines: list[str] = []
    monkeypatch.setattr(job_evidence, "own_log", lambda: "\n".join(lines))
    return lines


@pytest.fixture
def run(tmp_path, slurm, log) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.create()
    return run


def task(restart: int = 1, launcher: str = "single") -> ProcessInfo:
    return ProcessInfo(0, 0, 0, 1, 1, 1, LOOPBACK, None, launcher, host="gpu01", job_id="7", attempt=restart)


def begin(run: RunDirectory, restart: int = 1, step: int | None = 0) -> JournalWriter:
    """Rank 0 takes the lease of its attempt and, unless `step` is None, says that it begins there."""
    journal = JournalWriter(run.journal, take_lease(run, task(restart, "slurm")).attempt)
    if step is not None:
        journal.write(started(step=step, ranks=ranks_on("gpu01"), batch=1, epochs=1, steps_per_epoch=1, num_images=1))
    return journal


def stop(journal: JournalWriter, cause: str, *, requeued: bool, step: int = 5) -> None:
    journal.write(AttemptEnded(outcome=AttemptEnded.STOPPED, epoch=0, step=step, cause=cause, requeued=requeued))


def conclude(run: RunDirectory, status: int, restart: int = 1, **cluster: object) -> int:
    return conclude_job(run, ClusterSpec(**cluster), task(restart), status)[0]


def last_end(run: RunDirectory) -> AttemptEnded:
    return [event for event in read_events(run.journal) if isinstance(event, AttemptEnded)][-1]


def test_killed_tasks_are_queued_again_and_recorded(run, slurm, log):
    begin(run)
    log += ["0: hpc-yolo: task 0 on gpu01, start 1 of its job", "srun: error: gpu01: task 1: Segmentation fault"]
    assert conclude(run, 143) == 143
    end = last_end(run)
    assert (end.cause, end.requeued, end.outcome) == (Cause.KILLED, True, AttemptEnded.STOPPED)
    assert end.detail == "task 1 on gpu01: Segmentation fault: killed or stalled 1 of 3"
    assert slurm.asked == [REQUEUE]


def test_second_hang_before_the_first_step_ends_the_run(run, slurm):
    """Its ranks waited for an unknown host until the time limit, twenty times."""
    begin(run)
    conclude(run, 140)
    assert (last_end(run).is_idle, last_end(run).requeued) == (True, True)
    slurm.shown.write_text(SHOWN.format("RUNNING", 1, "None"))
    begin(run, restart=2)
    conclude(run, 140, restart=2)
    end = last_end(run)
    assert (end.outcome, end.requeued, end.cause) == (AttemptEnded.FAILED, False, Cause.TIME_LIMIT)
    assert "for the second time in a row before the first step" in end.detail
    assert slurm.asked == [REQUEUE, NO_MORE]


def test_preemptions_that_slurm_confirms_have_no_limit(run, slurm):
    for restart in range(1, 5):
        slurm.shown.write_text(SHOWN.format("RUNNING", restart - 1, "2026-11-25T18:00:00"))
        begin(run, restart)
        conclude(run, 143, restart)
        assert (last_end(run).cause, last_end(run).requeued) == (Cause.PREEMPTED, True)


@pytest.mark.parametrize("requeued", [True, False], ids=["no time", "no scontrol"])
def test_requeue_that_rank_0_could_not_do_is_done(run, slurm, requeued):
    """Tasks in a container have no scontrol: the run ended at its first time limit."""
    stop(begin(run), Cause.TIME_LIMIT, requeued=requeued)
    conclude(run, 140)
    assert slurm.asked == [REQUEUE]
    assert last_end(run).requeued


def test_refused_requeue_is_recorded(run, slurm):
    slurm.refuses.touch()
    stop(begin(run), Cause.TIME_LIMIT, requeued=True)
    conclude(run, 140)
    assert (last_end(run).requeued, "not queued again" in last_end(run).detail) == (False, True)


def test_cancelled_job_is_not_queued_again(run, slurm):
    """Rank 0, which could not ask, took it for preempted."""
    slurm.shown.write_text(CANCELLED)
    stop(begin(run), Cause.PREEMPTED, requeued=True)
    conclude(run, 143)
    assert slurm.asked == []
    assert (last_end(run).cause, last_end(run).requeued) == (Cause.CANCELLED, False)


def test_end_recorded_while_slurm_ends_the_job_is_kept(run, slurm):
    """A successor takes over, if there is one; a requeue would be refused."""
    slurm.shown.write_text(SHOWN.format("COMPLETING", 0, "None").replace("Reason=None", "Reason=TimeLimit"))
    stop(begin(run), Cause.TIME_LIMIT, requeued=True)
    before = run.journal.read_bytes()
    assert conclude(run, 140) == 140
    assert (slurm.asked, run.journal.read_bytes()) == ([], before)


def test_requeue_by_slurm_itself_is_recorded_and_not_repeated(run, slurm):
    """Rank 0 was refused, and then Slurm put the preempted job back into the queue."""
    slurm.shown.write_text(SHOWN.format("COMPLETING", 1, "None"))
    stop(begin(run), Cause.PREEMPTED, requeued=False)
    assert conclude(run, 143) == 143
    assert slurm.asked == []
    assert last_end(run).requeued and last_end(run).detail.endswith("queued again by Slurm")


@pytest.mark.parametrize(
    ("line", "quoted"),
    [
        ("0: /bin/python: No module named hpc_yolo", "/bin/python: No module named hpc_yolo"),
        ("slurmstepd: error: execve(): x: No such file", "execve(): x: No such file"),
    ],
)
def test_program_that_does_not_start_is_quoted(run, log, capsys, line, quoted):
    """A runtime of containers, or the Python in the image: the journal has no attempt, and the log of a job is long."""
    log += [line, "srun: error: gpu01: task 0: Exited with exit code 1"]
    assert conclude(run, 1) == 1
    detail = f"task 0 on gpu01: Exited with exit code 1: error ({quoted})"
    assert detail in capsys.readouterr().out
    assert (last_end(run).detail, last_end(run).requeued) == (detail, False)


def test_without_a_job_the_exit_code_is_passed_on(run):
    process = dataclasses.replace(task(), job_id=None)
    assert conclude_job(run, ClusterSpec(), process, 7) == (7, None)


@pytest.mark.parametrize("cause", [Cause.ERROR, Cause.CANCELLED])
def test_final_end_stays_final(run, slurm, cause):
    stop(begin(run), cause, requeued=False)
    conclude(run, 8)
    assert slurm.asked == []


def test_start_killed_before_it_takes_the_lease_counts(run, slurm):
    """It gave the run up for good."""
    begin(run, restart=1)
    for restart in (2, 3):
        slurm.shown.write_text(SHOWN.format("RUNNING", restart - 1, "None"))
        conclude(run, 137, restart, max_crashes=1)
    ends = [event for event in read_events(run.journal) if isinstance(event, AttemptEnded)]
    assert [(end.attempt, end.cause, end.requeued) for end in ends] == [
        (2, Cause.KILLED, True),
        (3, Cause.KILLED, False),
    ]
    assert slurm.asked == [REQUEUE, NO_MORE]


@pytest.mark.parametrize(("status", "shown"), [(9, RUNNING), (143, CANCELLED), (1, RUNNING)])
def test_job_that_never_held_the_lease_writes_nothing(run, slurm, status, shown):
    """Its tasks lost to another start, were cancelled, or could not begin because of a mistake."""
    slurm.shown.write_text(shown)
    assert conclude(run, status) == status
    assert read_events(run.journal) == []
    assert slurm.asked == []


@pytest.mark.parametrize(("restart", "expected"), [(1, []), (2, [NO_MORE])])
def test_finished_job_may_not_be_started_again(run, slurm, restart, expected):
    """Since 24.05 it starts a job that it has preempted once more after its end, whatever its exit code."""
    journal = begin(run, restart)
    journal.write(AttemptEnded(outcome=AttemptEnded.FINISHED, epoch=1, step=9, cause=Cause.FINISHED))
    assert conclude(run, 0, restart) == 0
    assert slurm.asked == expected


@pytest.mark.parametrize(
    ("cluster", "chosen", "expected"),
    [({"requeue": "expedite"}, "", [NO_MORE]), ({}, "expedite", [NO_MORE]), ({}, "requeue", []), ({}, "", [])],
)
def test_expedited_job_is_not_held_after_its_last_error(run, slurm, cluster, chosen, expected):
    size = {"host": "h", "num_nodes": 1, "tasks_per_node": 1, "gpus_per_node": 0}
    add_submission(run, Submission(time=0.0, executor="slurm", job_id="7", requeue=chosen, **size))
    stop(begin(run), Cause.ERROR, requeued=False)
    conclude(run, 8, **cluster)
    assert slurm.asked == expected


@pytest.mark.parametrize(
    ("accounting", "lines", "peak"),
    [
        ("7.0|OUT_OF_MEMORY|0:125|95608K\n", [], " of 95608K"),
        ("7.0|FAILED|0:9|95608K\n", ["0: slurmstepd: error: Detected 1 oom_kill event in StepId=7.0."], " of 95608K"),
        ("", ["srun: error: gpu01: task 1: Out Of Memory"], ""),
    ],
)
def test_out_of_memory_ends_the_run_and_names_the_peak(run, slurm, log, monkeypatch, accounting, lines, peak):
    monkeypatch.setattr(job_evidence, "job_peak_bytes", lambda: None)
    slurm.accounting.write_text(accounting)
    log += lines
    begin(run)
    conclude(run, 137)
    end = last_end(run)
    assert (end.cause, end.outcome, end.requeued) == (Cause.OUT_OF_MEMORY, AttemptEnded.FAILED, False)
    assert f"the memory of the job ran out at a peak{peak} (ask for more cluster.mem" in end.detail
    assert slurm.asked == []


def test_log_is_read_from_this_start_on():
    """A job that is queued again goes on in the same log, where the deaths of its earlier starts stand."""
    first, second = "0: hpc-yolo: task 0 on a, start 1 of its job", "1: hpc-yolo: task 1 on a, start 2 of its job"
    log = f"{first}\none\n{second}\ntwo\n0: hpc-yolo: task 0 on a, start 2 of its job\n"
    assert since_start(log, 2).splitlines()[:2] == [second, "two"]
    assert "one" in since_start(log, 1)
    assert since_start(f"{first}\none\n", 2) == "\none\n", "nobody announced the second start"
    assert since_start("one\n", 1) == "one\n"


def test_end_of_the_log_is_read_through_links(tmp_path):
    (tmp_path / "log").write_text("a\n")
    (tmp_path / "link").symlink_to(tmp_path / "log")
    assert own_log(tmp_path / "link") == "a\n"
    assert own_log(tmp_path / "nowhere") == own_log(tmp_path) == ""


@pytest.mark.parametrize(
    ("groups", "file"),
    [
        (
            "4:memory:/slurm/uid_0/job_7/step_batch/task_0\n1:name=systemd:/\n",
            "memory/slurm/uid_0/job_7/memory.max_usage_in_bytes",
        ),
        (
            "0::/system.slice/slurmstepd.scope/job_7/step_batch/user/task_0\n",
            "system.slice/slurmstepd.scope/job_7/memory.peak",
        ),
        (
            "0::/system.slice/slurmstepd.scope/job_sFQ5M89XY5YH00/step_batch\n",
            "system.slice/slurmstepd.scope/job_sFQ5M89XY5YH00/memory.peak",
        ),
        ("0::/user.slice\n", None),
        ("nonsense\n", None),
    ],
)
def test_peak_memory_is_that_of_the_cgroup(tmp_path, groups, file):
    (tmp_path / "own").write_text(groups)
    if file is not None:
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text("104857600\n")
    assert job_peak_bytes(tmp_path / "own", tmp_path) == (None if file is None else 104857600)


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (1, 2)])
def test_unreadable_spec_does_not_fail_a_finished_run(run, slurm, monkeypatch, status, expected):
    run.spec.write_text("name: [")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    done = CliRunner().invoke(cli, ["after-job", str(run.path), "--exit-code", str(status)])
    assert (done.exit_code if status == 0 else done.exception.exit_code) == expected


@pytest.mark.parametrize(
    ("cause", "requeued", "status", "expected", "ran"),
    [
        (Cause.FINISHED, False, 0, 0, ["success finished", "always finished"]),
        (Cause.ERROR, False, 1, 1, ["failure error", "always error"]),
        (Cause.TIME_LIMIT, False, 140, 140, ["failure time limit", "always time limit"]),
        (Cause.PREEMPTED, True, 143, 143, []),
        (Cause.CANCELLED, False, 143, 143, []),
    ],
)
def test_stages_in_the_job_follow_the_end_of_the_run_alone(
    run, slurm, monkeypatch, cause, requeued, status, expected, ran
):
    """A failed stage changes neither the exit code of the job nor what follows it."""
    stages = [Stage(shell=f"echo {when} $CAUSE >> $RUN/notes; exit 9", when=when) for when in WHEN]
    cluster = ClusterSpec(requeue="auto" if requeued else "off")
    write_atomic(
        run.spec,
        dump_spec(Spec(name="run", model="yolov5n", data=DataSpec(path="d.yaml"), cluster=cluster, then=stages)),
    )
    run.origin.write_text('{"hpc_yolo": "1"}')
    add_submission(
        run,
        Submission(
            time=0.0,
            executor="slurm",
            job_id="8",
            host="h",
            num_nodes=1,
            tasks_per_node=1,
            gpus_per_node=0,
            stage="shell",
        ),
    )
    (slurm.log.parent / "scancel").write_text("#!/bin/sh\nexit 1\n")  # does not keep stages in the job from running
    journal = begin(run)
    outcome = AttemptEnded.FINISHED if cause == Cause.FINISHED else AttemptEnded.STOPPED
    journal.write(AttemptEnded(outcome=outcome, epoch=0, step=1, cause=cause, requeued=requeued))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    done = CliRunner().invoke(cli, ["after-job", str(run.path), "--exit-code", str(status)])
    assert done.exit_code == expected, done.output
    notes = run.path / "notes"
    assert (notes.read_text().splitlines() if notes.exists() else []) == ran
    assert slurm.asked == ([REQUEUE] if requeued else [])
