"""Jobs of stages: queued in order behind the run, in place of earlier ones, again alone, and when their turn comes."""

import msgspec
import pytest
from journal_events import started

from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.jobs import stage_jobs
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.cluster.slurm_output import JobState
from hpc_yolo.core.errors import ClusterError, RunError, SchedulerUnavailable
from hpc_yolo.core.files import write_atomic
from hpc_yolo.launch import stage_task, submit
from hpc_yolo.launch.plan import slurm_plan
from hpc_yolo.launch.stage_task import run_stage_in_job
from hpc_yolo.launch.stages import (
    cancel_undue_stages,
    own_stage_jobs,
    queue_missing_stages,
    queue_stages,
    stage_decisions,
)
from hpc_yolo.launch.stages_alone import stages_to_submit
from hpc_yolo.resilience.run_over import end_in_job, end_of_run, move_stages_behind
from hpc_yolo.runs.events import AttemptEnded, Cause
from hpc_yolo.runs.journal import JournalWriter
from hpc_yolo.runs.run_end import RunEnd
from hpc_yolo.runs.stages import StageRecord, claim_stage, read_stages
from hpc_yolo.runs.submissions import Submission, add_submission, stage_submissions
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.load import dump_spec
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.stages import ExportStage, Stage, StageRequest, ValStage
from hpc_yolo.spec.train import TrainSpec

OWN = "job_of_its_own"
THEN = [
    Stage(val=ValStage(), where=OWN, cluster=StageRequest(time="10")),
    Stage(export=ExportStage()),
    Stage(shell="touch $RUN/ran", where=OWN, when="always"),
]
SPEC = Spec(
    name="run",
    model="yolov5n",
    data=DataSpec(path="d.yaml"),
    cluster=ClusterSpec(gpus_per_node=0, time="30"),
    then=THEN,
)
TASK = ProcessInfo.alone({"SLURM_JOB_ID": "7"})
FINISHED = RunEnd(1, True, Cause.FINISHED)


class Slurm:
    """Answers of Slurm. `calls`: what it was asked to do; `states`: of jobs; `refuses`, `is_silent`: of sbatch."""

    def __init__(self):
        self.calls: list[tuple[str, ...]] = []
        self.states: dict[str, str] = {}
        self.refuses = ""
        self.is_silent = False
        self.next_id = 20

    def submit_script(self, path, options, _arguments, *, run):
        name = path.stem
        if self.is_silent:
            raise SchedulerUnavailable("sbatch gave no answer")
        if name == self.refuses:
            raise ClusterError("sbatch: no")
        self.next_id += 1
        dependency = next((one for one in options if one.startswith("--dependency=")), "")
        self.calls.append(("sbatch", name, dependency.removeprefix("--dependency=")))
        return str(self.next_id)

    def cancel(self, job_ids, *, only_waiting=False):
        self.calls.append(("scancel", *job_ids, *(["waiting"] if only_waiting else [])))

    def set_dependency(self, job_id, dependency):
        self.calls.append(("update", job_id, dependency))

    def job_record(self, _job_id):
        raise ClusterError("scontrol: no")

    def job_states(self, job_ids, _timeout_s=0.0):
        if self.is_silent:
            raise SchedulerUnavailable("squeue gave no answer")
        return {one: JobState(one, self.states.get(one, "UNKNOWN"), nodes="n1") for one in job_ids}


@pytest.fixture
def slurm(monkeypatch) -> Slurm:
    fake = Slurm()
    for name in ("submit_script", "cancel", "set_dependency", "job_states", "job_record"):
        monkeypatch.setattr(scheduler, name, getattr(fake, name))
    monkeypatch.setattr(scheduler, "jobs_by_comment", lambda *_arguments, **_options: {})
    return fake


@pytest.fixture
def trained(run):
    """A run whose job 7 has ended; `end` writes how."""
    write_atomic(run.spec, dump_spec(SPEC))
    run.origin.write_text('{"hpc_yolo": "1"}')
    add_submission(run, submission("7"))
    return run


def submission(job_id, **changes):
    sizes = {"num_nodes": 1, "tasks_per_node": 1, "gpus_per_node": 0}
    return msgspec.structs.replace(Submission(time=1.0, executor="slurm", job_id=job_id, host="a", **sizes), **changes)


def end(run, cause=Cause.FINISHED, *, requeued=False):
    journal = JournalWriter(run.journal, 1)
    journal.write(started(job_id="7"))
    outcome = AttemptEnded.FINISHED if cause == Cause.FINISHED else AttemptEnded.STOPPED
    journal.write(AttemptEnded(outcome=outcome, epoch=0, step=1, cause=cause, requeued=requeued))


def record(stage, state, number=1, step=""):
    ended = None if state == "running" else 9.0
    return StageRecord(stage=stage, end=1, number=number, state=state, began=5.0, ended=ended, job_id="7", step=step)


def test_jobs_of_stages_follow_the_run_and_each_other(trained, slurm):
    queued = queue_stages(trained, own_stage_jobs(trained, SPEC), ["7", "8"])
    assert slurm.calls == [("sbatch", "val", "afterany:7:8"), ("sbatch", "shell", "afterany:7:8:21")]
    assert stage_submissions(trained) == queued
    assert [(one.stage, one.job_id, one.stage_number) for one in queued] == [("val", "21", 1), ("shell", "22", 1)]
    script = trained.stage_script("val").read_text()
    assert "#SBATCH --time=10\n" in script and f"run-stage {trained.path} val --number 1\n" in script


def test_submission_replaces_waiting_stages_and_takes_all_back_where_one_is_refused(trained, slurm, monkeypatch):
    add_submission(trained, submission("5", stage="val"))
    plan = slurm_plan(SPEC, trained, "why", {})
    earlier = stage_jobs(trained)
    add_submission(trained, submission("9"))
    slurm.refuses = "shell"
    with pytest.raises(ClusterError, match="Slurm refuses the job of stage shell: sbatch: no"):
        submit._queue_stages(plan, submission("9"), earlier)
    assert slurm.calls == [("scancel", "5", "waiting"), ("sbatch", "val", "afterany:9"), ("scancel", "9", "21")]


def test_submission_goes_on_where_sbatch_does_not_answer_for_a_stage(trained, slurm):
    slurm.is_silent = True
    submit._queue_stages(slurm_plan(SPEC, trained, "why", {}), submission("9"), [])
    assert stage_submissions(trained) == []
    assert list(trained.jobs.glob("hpc-yolo:*.json")), "the job is searched for later"


@pytest.mark.parametrize(
    ("present", "run_end", "expected"),
    [
        ([], FINISHED, ["val", "shell"]),
        ([submission("8", stage="val")], FINISHED, ["shell"]),
        ([record("shell", "done")], FINISHED, ["val"]),
        ([], RunEnd(1, False, Cause.ERROR), ["shell"]),
        ([], RunEnd(1, False, Cause.CANCELLED), []),
    ],
)
def test_run_queues_the_stages_that_have_no_job_at_its_end(trained, slurm, present, run_end, expected):
    for one in present:
        if isinstance(one, Submission):
            add_submission(trained, one)
        else:
            claim_stage(trained, one)
    queue_missing_stages(trained, SPEC, TASK, run_end)
    assert [name for _, name, _ in slurm.calls] == expected
    assert all(call[2].startswith("afterany:7") for call in slurm.calls)


@pytest.mark.parametrize(
    ("run_end", "undue"),
    [(FINISHED, []), (RunEnd(1, False, Cause.ERROR), ["8"]), (RunEnd(1, False, Cause.CANCELLED), ["8", "9"])],
)
def test_waiting_jobs_of_stages_that_are_not_for_this_end_are_cancelled(trained, slurm, run_end, undue):
    for job_id, stage in (("8", "val"), ("9", "shell")):
        add_submission(trained, submission(job_id, stage=stage))
    cancel_undue_stages(trained, SPEC, run_end)
    assert slurm.calls == [("scancel", *undue, "waiting")]


def test_stages_move_behind_the_next_job_of_a_chain(trained, slurm):
    for job_id, stage in (("8", "val"), ("9", "shell")):
        add_submission(trained, submission(job_id, stage=stage))
    move_stages_behind(trained, "7", "10")
    assert slurm.calls == [("update", "8", "afterany:7:10"), ("update", "9", "afterany:7:10:8")]


@pytest.mark.parametrize(
    ("records", "changes", "expected"),
    [
        ([("val", "done"), ("export", "failed"), ("shell", "done")], {}, {"export": 2}),
        ([("val", "done"), ("export", "done"), ("shell", "running")], {}, {"shell": 2}),
        ([("val", "done"), ("export", "done")], {}, {"shell": 1}),
        ([("val", "done"), ("export", "not run"), ("shell", "done")], {"then": [*THEN, Stage(shell="new")]}, None),
        ([("export", "failed")], {"train": TrainSpec(epochs=200)}, {}),
        ([("export", "failed")], {"then": []}, {}),
    ],
    ids=["failed", "lost", "never began", "gained", "train longer", "no stages"],
)
def test_stages_of_a_finished_run_that_are_submitted_alone(trained, slurm, records, changes, expected):
    end(trained)
    for name, state in records:
        claim_stage(
            trained, record(name, state, step=dict(zip(("val", "export", "shell"), THEN, strict=True))[name].step)
        )
    slurm.states = {"7": "COMPLETED"}
    spec = msgspec.structs.replace(SPEC, **changes)
    found = stages_to_submit(trained, spec)
    assert found == ({"export": 2, "shell-2": 1} if expected is None else expected)


@pytest.mark.parametrize(
    ("states", "message"),
    [({"8": "PENDING"}, "run is finished, and its stage val is waiting: queued as job 8"), ({}, "so are its stages")],
)
def test_finished_run_whose_stages_are_under_way_or_done_is_not_submitted(trained, slurm, states, message):
    end(trained)
    add_submission(trained, submission("8", stage="val"))
    names = dict(zip(("val", "export", "shell"), THEN, strict=True))
    for name in names if not states else ("export", "shell"):
        claim_stage(trained, record(name, "done", step=names[name].step))
    slurm.states = {"7": "COMPLETED", **states}
    with pytest.raises(RunError, match=message) as caught:
        stages_to_submit(trained, SPEC)
    assert "--set train.epochs=NUMBER" in (caught.value.hint or "")


@pytest.mark.parametrize("cause", [Cause.ERROR, Cause.TIME_LIMIT, Cause.CANCELLED])
def test_run_that_is_not_finished_is_submitted_as_a_whole(trained, slurm, cause):
    end(trained, cause)
    assert stages_to_submit(trained, SPEC) == {}


@pytest.mark.parametrize(
    ("cause", "requeued", "states", "expected"),
    [
        (Cause.FINISHED, False, {}, FINISHED),
        (Cause.PREEMPTED, True, {"7": "RUNNING"}, None),
        (Cause.PREEMPTED, True, {"7": "CANCELLED"}, RunEnd(1, False, Cause.CANCELLED)),
        (Cause.PREEMPTED, True, {"7": "NODE_FAIL"}, RunEnd(1, False, Cause.KILLED)),
        (None, False, {"7": "PENDING"}, None),
        (None, False, {"7": "CANCELLED"}, RunEnd(0, False, Cause.CANCELLED)),
        (None, False, {"7": "NODE_FAIL"}, RunEnd(0, False, Cause.KILLED)),
    ],
)
def test_end_of_a_run_by_its_journal_and_its_jobs(trained, slurm, cause, requeued, states, expected):
    if cause is not None:
        end(trained, cause, requeued=requeued)
    slurm.states = states
    assert end_of_run(trained) == expected


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (None, None),
        (Cause.ERROR, RunEnd(0, False, Cause.ERROR)),
        (Cause.FINISHED, RunEnd(0, True, Cause.FINISHED)),
    ],
)
def test_end_in_a_job_without_a_record_of_it(trained, cause, expected):
    assert end_in_job(trained, TASK, cause) == expected


@pytest.mark.parametrize(
    ("stage", "cause", "status", "message", "did_run"),
    [
        ("shell", Cause.FINISHED, 0, "stage shell: done", True),
        ("shell", Cause.CANCELLED, 0, "the run was stopped by a person", False),
        ("val", Cause.ERROR, 0, "the run did not finish; the stage is for success", False),
        ("report", Cause.FINISHED, 0, "no longer has it", False),
    ],
)
def test_job_of_a_stage_runs_it_if_it_is_due(trained, slurm, capfd, stage, cause, status, message, did_run):
    end(trained, cause)
    process = ProcessInfo.alone({"SLURM_JOB_ID": "8"})
    assert run_stage_in_job(trained, SPEC, stage, 1, process) == status
    assert message in capfd.readouterr().out
    assert (trained.path / "ran").exists() == bool(read_stages(trained)) == did_run
    assert run_stage_in_job(trained, SPEC, stage, 1, process) == 0, "a second job leaves"


def test_job_of_a_stage_whose_run_goes_on_queues_it_behind_the_run(trained, slurm, capfd):
    add_submission(trained, submission("10", after="7"))
    slurm.states = {"7": "RUNNING", "10": "PENDING"}
    assert run_stage_in_job(trained, SPEC, "shell", 3, ProcessInfo.alone({"SLURM_JOB_ID": "8"})) == 0
    assert slurm.calls == [("sbatch", "shell", "afterany:7:10")]
    assert "so it is queued again, as job 21" in capfd.readouterr().out
    assert stage_submissions(trained)[-1].stage_number == 3


def test_job_of_a_stage_waits_for_an_answer_of_slurm(trained, slurm, monkeypatch):
    slurm.is_silent = True
    waited = []

    def answer(seconds):
        waited.append(seconds)
        slurm.is_silent = len(waited) < 2
        slurm.states = {"7": "NODE_FAIL"}

    monkeypatch.setattr("hpc_yolo.launch.stage_task.time.sleep", answer)
    assert run_stage_in_job(trained, SPEC, "shell", 1, ProcessInfo.alone({"SLURM_JOB_ID": "8"})) == 0
    assert len(waited) == 2 and (trained.path / "ran").exists()
    monkeypatch.setattr(stage_task, "PATIENCE_S", -1.0)
    slurm.is_silent = True
    with pytest.raises(SchedulerUnavailable):
        run_stage_in_job(trained, SPEC, "val", 1, ProcessInfo.alone({"SLURM_JOB_ID": "9"}))


def test_dry_run_names_when_and_where_each_stage_runs(run):
    spec = msgspec.structs.replace(SPEC, cluster=ClusterSpec(gpus_per_node=8, cpus_per_task=6, time="2-0"))
    assert stage_decisions(run, spec, in_slurm=True) == [
        ("stage", "val: after success, a job of its own: 1 GPU, 6 CPU cores, 10"),
        ("stage", "export: after success, on the first node of the job, if time is left"),
        ("stage", "shell: always, a job of its own: 1 GPU, 6 CPU cores, 01:00:00"),
    ]
    assert [text for _, text in stage_decisions(run, spec, in_slurm=False)] == [
        "val: after success, on this machine, since only Slurm has jobs",
        "export: after success, on this machine",
        "shell: always, on this machine, since only Slurm has jobs",
    ]
