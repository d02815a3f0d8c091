"""The state of a stage from the end of its run, its records, its jobs, and what Slurm says about them."""

import msgspec
import pytest

from hpc_yolo.cluster.slurm_output import JobState
from hpc_yolo.resilience.stage_state import StageFacts, is_due, stage_status
from hpc_yolo.runs.events import Cause
from hpc_yolo.runs.run_end import RunEnd
from hpc_yolo.runs.stages import StageRecord
from hpc_yolo.runs.submissions import Submission
from hpc_yolo.spec.stages import Stage, ValStage

FINISHED, FAILED = RunEnd(3, True, Cause.FINISHED), RunEnd(3, False, Cause.ERROR)
CANCELLED = RunEnd(3, False, Cause.CANCELLED)
IN_JOB, OWN = Stage(val=ValStage()), Stage(val=ValStage(), where="job_of_its_own")
RUN_JOB, OWN_JOB, AGAIN = "7", "8", "9"


def record(state="running", job_id=OWN_JOB, **changes):
    known = {"ended": None if state == "running" else 9.0, "step": IN_JOB.step, "log": "stages/val-8.log"}
    one = StageRecord(stage="val", end=3, number=1, state=state, began=5.0, job_id=job_id, **known)
    return msgspec.structs.replace(one, **changes)


def submitted(job_id=OWN_JOB, number=1):
    return Submission(
        time=1.0,
        executor="slurm",
        job_id=job_id,
        host="login",
        num_nodes=1,
        tasks_per_node=1,
        gpus_per_node=0,
        stage="val",
        stage_number=number,
    )


def job(job_id, state, reason=""):
    return {job_id: JobState(job_id, state, reason=reason, nodes="" if state == "PENDING" else "n1")}


ROWS = {
    "run goes on": (OWN, None, [], [submitted()], job(OWN_JOB, "PENDING"), "waiting", ""),
    "run cancelled": (OWN, CANCELLED, [], [submitted()], {}, "waiting", "the run was stopped; stages follow"),
    "not for this end": (OWN, FAILED, [], [submitted()], {}, "skipped", "the run ended otherwise: error"),
    "queued": (OWN, FINISHED, [], [submitted()], job(OWN_JOB, "PENDING", "Priority"), "waiting", "job 8: Priority"),
    "not known to the cache": (OWN, FINISHED, [], [submitted()], {}, "waiting", "queued as job 8"),
    "running": (OWN, FINISHED, [record()], [submitted()], job(OWN_JOB, "RUNNING"), "running", ""),
    "requeued": (OWN, FINISHED, [record()], [submitted()], job(OWN_JOB, "PENDING"), "waiting", "is queued again"),
    "done": (OWN, FINISHED, [record("done")], [submitted()], job(OWN_JOB, "COMPLETED"), "done", ""),
    "failed": (OWN, FINISHED, [record("failed", detail="code 3")], [submitted()], {}, "failed", "code 3"),
    "killed": (OWN, FINISHED, [record()], [submitted()], job(OWN_JOB, "CANCELLED"), "lost", "job 8 ended before it"),
    "forgotten": (OWN, FINISHED, [record()], [submitted()], job(OWN_JOB, "UNKNOWN"), "lost", "ended before it"),
    "never began": (
        OWN,
        FINISHED,
        [],
        [submitted()],
        job(OWN_JOB, "TIMEOUT"),
        "lost",
        "job 8 ended before it: TIMEOUT",
    ),
    "has no job": (OWN, FINISHED, [], [], job(RUN_JOB, "COMPLETED"), "lost", "has no job"),
    "may get a job": (OWN, FINISHED, [], [], job(RUN_JOB, "RUNNING"), "waiting", "has not ended yet"),
    "submitted again": (
        OWN,
        FINISHED,
        [record("failed")],
        [submitted(), submitted(AGAIN, 2)],
        job(AGAIN, "PENDING"),
        "waiting",
        "queued as job 9",
    ),
    "done again": (
        OWN,
        FINISHED,
        [record("failed"), record("done", AGAIN, number=2)],
        [submitted(), submitted(AGAIN, 2)],
        {},
        "done",
        "",
    ),
    "done after an earlier end": (OWN, FINISHED, [record("done", end=2)], [submitted()], {}, "waiting", "queued as"),
    "options changed": (OWN, FINISHED, [record("done", step="{}")], [submitted()], {}, "not run", "have changed"),
    "in the job": (IN_JOB, FINISHED, [], [], job(RUN_JOB, "RUNNING"), "waiting", "has not ended yet"),
    "its turn never came": (
        IN_JOB,
        FINISHED,
        [],
        [],
        job(RUN_JOB, "TIMEOUT"),
        "lost",
        "job 7 ended before it: TIMEOUT",
    ),
    "runs in the job": (IN_JOB, FINISHED, [record("running", RUN_JOB)], [], job(RUN_JOB, "RUNNING"), "running", ""),
    "killed with the job": (
        IN_JOB,
        FINISHED,
        [record("running", RUN_JOB)],
        [],
        job(RUN_JOB, "TIMEOUT"),
        "lost",
        "job 7",
    ),
    "no time": (IN_JOB, FINISHED, [record("not run", RUN_JOB, detail="only 9 s")], [], {}, "not run", "only 9 s"),
}


@pytest.mark.parametrize(("stage", "end", "records", "jobs", "slurm", "state", "detail"), ROWS.values(), ids=ROWS)
def test_state_of_a_stage(stage, end, records, jobs, slurm, state, detail):
    facts = StageFacts(end=end, records=records, submissions=jobs, run_job=RUN_JOB, jobs=slurm)
    status = stage_status("val", stage, facts)
    assert status.state == state
    assert detail in status.detail
    assert status.is_open == (state in ("failed", "lost", "not run"))
    assert status.is_under_way == (state in ("waiting", "running"))


@pytest.mark.parametrize(("lives", "state"), [(True, "running"), (False, "lost")])
def test_stage_on_this_machine_is_lost_with_its_process(lives, state):
    facts = StageFacts(FINISHED, [record(job_id=None)], is_process_alive=lambda _record: lives)
    assert stage_status("val", IN_JOB, facts).state == state


def test_stage_on_this_machine_that_nobody_began_is_not_run():
    assert stage_status("val", IN_JOB, StageFacts(FINISHED)).state == "not run"


@pytest.mark.parametrize(
    ("when", "due"),
    [("success", [True, False, False]), ("failure", [False, True, False]), ("always", [True, True, False])],
)
def test_stages_that_follow_an_end(when, due):
    stage = Stage(val=ValStage(), when=when)
    assert [is_due(stage, end) for end in (FINISHED, FAILED, CANCELLED)] == due
