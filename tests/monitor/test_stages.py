"""Stages on screens: read when their files change, shown on the page of a run, reported as problems."""

import os

import msgspec
import pytest
from journal_events import started

from hpc_yolo.cluster.job_cache import CachedJobState, Reply
from hpc_yolo.cluster.slurm_output import JobState
from hpc_yolo.core.files import write_atomic
from hpc_yolo.monitor.alerts import stage_problems
from hpc_yolo.monitor.columns import run_json
from hpc_yolo.monitor.run_facts import RunFacts
from hpc_yolo.monitor.tracked_run import TrackedRun
from hpc_yolo.monitor.tui.detail import detail_lines
from hpc_yolo.monitor.tui.stages import STYLES, stage_lines
from hpc_yolo.resilience import stage_state
from hpc_yolo.resilience.stage_state import StageStatus
from hpc_yolo.runs.events import AttemptEnded, Cause
from hpc_yolo.runs.journal import JournalWriter
from hpc_yolo.runs.stages import DONE, StageRecord, claim_stage, write_stage
from hpc_yolo.runs.submissions import Submission, add_submission
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.load import dump_spec
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.stages import Stage

OWN = "job_of_its_own"
THEN = [Stage(shell="a", where=OWN), Stage(shell="b"), Stage(shell="c", when="failure")]


def reply(**states):
    """Slurm's reply at time 50."""
    jobs = {
        job[1:]: CachedJobState(job=JobState(job[1:], state, nodes="n1"), time=50.0) for job, state in states.items()
    }
    return Reply(jobs=jobs, time=50.0)


def submission(job_id, **changes):
    sizes = {"num_nodes": 1, "tasks_per_node": 1, "gpus_per_node": 0}
    return msgspec.structs.replace(Submission(time=1.0, executor="slurm", job_id=job_id, host="a", **sizes), **changes)


@pytest.fixture
def finished(run):
    """A finished run in job 7, whose first stage has job 8."""
    write_atomic(run.spec, dump_spec(Spec(name="run", model="yolov5n", data=DataSpec(path="d.yaml"), then=THEN)))
    add_submission(run, submission("7"))
    add_submission(run, submission("8", stage="shell"))
    journal = JournalWriter(run.journal, 1, clock=lambda: 9.0)
    journal.write(started(job_id="7"))
    journal.write(AttemptEnded(outcome=AttemptEnded.FINISHED, epoch=0, step=1, cause=Cause.FINISHED))
    return run


def test_stages_are_read_when_they_change(finished):
    tracked = TrackedRun(finished)
    tracked.read()
    assert tracked.slurm_job_ids() == ["8", "7"], "shell-2 may still begin in the job of the run"
    facts = tracked.facts(reply(j7="COMPLETED", j8="PENDING"), 60.0)
    assert (facts.state, facts.is_over) == ("done", False)
    assert [stage.state for stage in facts.stages] == ["waiting", "lost", "skipped"]
    assert facts.problems == ["stage shell-2 lost: job 7 ended before it: COMPLETED"]
    assert facts.detail == "stages: shell waiting"
    record = StageRecord(stage="shell", end=1, number=1, state="running", began=55.0, job_id="8", step=THEN[0].step)
    claim_stage(finished, record)
    os.utime(finished.stages, (100, 100))
    tracked.read()
    (stage, *_) = tracked.facts(reply(j7="COMPLETED", j8="PENDING"), 60.0).stages
    assert stage.state == "running", "Slurm's reply is older than the record"
    write_stage(finished, msgspec.structs.replace(record, state=DONE, ended=58.0))
    os.utime(finished.stages, (200, 200))
    tracked.read()
    facts = tracked.facts(reply(j8="COMPLETED"), 60.0)
    assert facts.stages[0].state == "done"
    assert tracked.slurm_job_ids() == ["7"]
    claim_stage(finished, msgspec.structs.replace(record, stage="shell-2", state=DONE, ended=58.0, step=THEN[1].step))
    os.utime(finished.stages, (300, 300))
    tracked.read()
    facts = tracked.facts(reply(), 60.0)
    assert (facts.is_over, facts.problems, tracked.slurm_job_ids()) == (True, [], [])
    assert run_json(facts)["stages"][0]["name"] == "shell"


def test_slurm_is_not_asked_about_stages_of_a_run_that_goes_on_or_that_are_not_for_its_end(run):
    then = [Stage(shell="a", where=OWN, when="failure")]
    write_atomic(run.spec, dump_spec(Spec(name="run", model="yolov5n", data=DataSpec(path="d.yaml"), then=then)))
    add_submission(run, submission("7"))
    add_submission(run, submission("8", stage="shell"))
    journal = JournalWriter(run.journal, 1, clock=lambda: 9.0)
    journal.write(started(job_id="7"))
    tracked = TrackedRun(run)
    tracked.read()
    assert tracked.slurm_job_ids() == ["7"]
    assert tracked.facts(reply(j7="RUNNING"), 60.0).stages[0].state == "waiting"
    journal.write(AttemptEnded(outcome=AttemptEnded.FINISHED, epoch=0, step=1, cause=Cause.FINISHED))
    tracked.read()
    assert tracked.slurm_job_ids() == []
    assert tracked.facts(reply(), 60.0).stages[0].state == "skipped"


def test_run_without_stages_has_none(finished):
    write_atomic(finished.spec, dump_spec(Spec(name="run", model="yolov5n", data=DataSpec(path="d.yaml"))))
    tracked = TrackedRun(finished)
    tracked.read()
    facts = tracked.facts(reply(), 60.0)
    assert (facts.stages, facts.is_over) == ([], True)
    assert stage_lines([], 0.0, 80) == []


def test_spec_of_another_version_has_no_stages(finished):
    finished.spec.write_text("name: run\nthen:\n- {dance: {}}\n")
    tracked = TrackedRun(finished)
    tracked.read()
    assert tracked.facts(reply(), 60.0).stages == []


@pytest.mark.parametrize("state", STYLES)
def test_page_of_a_run_shows_each_state(state):
    log = "stages/val-8.log"
    stage = StageStatus(
        name="val", when="success", where=OWN, state=state, detail="why", job_id="8", began=5.0, log=log
    )
    lines = [
        line.plain for line in detail_lines(RunFacts(name="a", path="/a", state="done", stages=[stage]), None, 65.0, 60)
    ]
    title = lines.index("stages after the training")
    assert lines[title + 2].split() == ["val", *state.split(), "1", "min", "job", "8", "success", log]
    assert ("      why" in lines) == (state != DONE)


def test_every_state_of_a_stage_has_a_style():
    names = ("WAITING", "RUNNING", "DONE", "FAILED", "SKIPPED", "NOT_RUN", "LOST")
    assert {getattr(stage_state, name) for name in names} == STYLES.keys()


@pytest.mark.parametrize("state", STYLES)
def test_stage_that_ended_without_success_is_a_problem(state):
    stage = StageStatus(name="val", when="success", where=OWN, state=state, detail="why")
    expected = [f"stage val {state}: why"] if state in ("failed", "lost", "not run") else []
    assert stage_problems([stage]) == expected
