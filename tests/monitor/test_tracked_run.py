"""Which of a run's jobs its row shows, and what it says of one that was to go on."""

import time

import msgspec
import pytest
from journal_events import started, stepped

from hpc_yolo.cluster.job_cache import CachedJobState, Reply
from hpc_yolo.cluster.slurm_output import JobState
from hpc_yolo.monitor.tracked_run import TrackedRun
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, Cause, DataStaging, TrialStopped
from hpc_yolo.runs.journal import JournalWriter
from hpc_yolo.runs.submissions import Submission, add_submission

FIRST = Submission(time=0.0, executor="slurm", job_id="7", host="login", num_nodes=1, tasks_per_node=1, gpus_per_node=0)
STARTED = started()
STOPPED = AttemptEnded(
    outcome=AttemptEnded.STOPPED, epoch=0, step=3, detail="preempted", cause=Cause.PREEMPTED, requeued=True
)
FINISHED = AttemptEnded(outcome=AttemptEnded.FINISHED, epoch=2, step=10, cause=Cause.FINISHED)


@pytest.mark.parametrize(
    ("events", "states", "expected"),
    [
        ([STARTED], {"7": "RUNNING", "8": "PENDING"}, ("running", "7")),
        ([STARTED, STOPPED], {"7": "FAILED", "8": "PENDING"}, ("requeued", "8")),
        ([STARTED, STOPPED], {"7": "FAILED", "8": "RUNNING"}, ("requeued", "8")),
        ([STARTED, FINISHED], {"7": "COMPLETED", "8": "CANCELLED"}, ("done", "7")),
        ([STARTED, STOPPED], {"7": "FAILED", "8": "CANCELLED"}, ("stopped", "7")),
        ([STARTED, STOPPED], {}, ("requeued", "7")),
    ],
    ids=["trains", "its turn comes", "starts", "not needed", "taken out of the queue", "Slurm is silent"],
)
def test_chain_shows_the_job_that_trains(tmp_path, events, states, expected):
    run = RunDirectory(tmp_path / "run")
    run.create()
    for submission in (FIRST, msgspec.structs.replace(FIRST, job_id="8", after="7")):
        add_submission(run, submission)
    journal = JournalWriter(run.journal, attempt=1)
    for event in events:
        journal.write(event)
    now = time.time()
    cached = {job_id: CachedJobState(job=JobState(job_id, state), time=now) for job_id, state in states.items()}
    tracked = TrackedRun(run)
    tracked.read()
    facts = tracked.facts(Reply(jobs=cached, time=now), now)
    assert (facts.state, facts.job_id) == expected


STAGING = DataStaging(
    stage="$TMPDIR", num_nodes=1, done_bytes=2**30, total_bytes=2**31, copied_bytes=2**30, bytes_per_s=2**28, seconds=4
)


@pytest.mark.parametrize(
    ("events", "slurm", "expected"),
    [
        ([STAGING], "RUNNING", ("running", "staging to $TMPDIR on 1 node, 1.0 GiB of 2.0 GiB, 256 MiB/s")),
        ([STARTED, STOPPED, STAGING], "RUNNING", ("running", "staging to $TMPDIR on 1 node, 1.0 GiB of 2.0 GiB, 256")),
        ([STAGING], None, ("running", "staging to $TMPDIR")),
        ([STAGING, msgspec.structs.replace(STAGING, is_over=True)], "RUNNING", ("running", "")),
        ([STAGING, STARTED], "RUNNING", ("running", "")),
        ([STAGING, STOPPED], "PENDING", ("requeued", "")),
        ([STAGING], "PENDING", ("requeued", "")),
        ([STAGING], "NODE_FAIL", ("failed", "Slurm reports NODE_FAIL")),
    ],
)
def test_staging_is_shown_while_it_lasts(tmp_path, events, slurm, expected):
    run = RunDirectory(tmp_path / "run")
    run.create()
    add_submission(run, FIRST)
    journal = JournalWriter(run.journal, attempt=1)
    for event in events:
        journal.write(event)
    now = time.time() + 1
    jobs = {} if slurm is None else {"7": CachedJobState(job=JobState("7", slurm), time=now)}
    tracked = TrackedRun(run)
    tracked.read()
    facts = tracked.facts(Reply(jobs=jobs, time=now), now)
    assert facts.state == expected[0]
    assert facts.detail.startswith(expected[1])
    assert ("staging" in facts.detail) is bool("staging" in expected[1])


TRIAL_STOPPED = TrialStopped(
    rule="asha", metric="fitness", epoch=0, step=5, epochs=2, value=0.1, threshold=0.2, num_compared=9
)


@pytest.mark.parametrize(
    ("attempts", "detail"),
    [
        ([[STARTED, stepped(), TRIAL_STOPPED, FINISHED]], "stopped early (asha)"),
        ([[STARTED, stepped(), TRIAL_STOPPED, FINISHED], [STARTED, FINISHED]], "stopped early (asha)"),
        ([[STARTED, stepped(), TRIAL_STOPPED, FINISHED], [STARTED, stepped(), FINISHED]], ""),
        ([[STARTED, stepped(), TRIAL_STOPPED], [STARTED, stepped(), TRIAL_STOPPED, FINISHED]], "stopped early (asha)"),
    ],
    ids=["once", "started again", "trained longer", "state lost before it was saved"],
)
def test_state_of_a_trial_that_ended_early(tmp_path, attempts, detail):
    run = RunDirectory(tmp_path / "run")
    run.create()
    for number, events in enumerate(attempts, start=1):
        for event in events:
            JournalWriter(run.journal, attempt=number).write(event)
    tracked = TrackedRun(run)
    tracked.read()
    facts = tracked.facts(Reply(jobs={}, time=0.0), time.time())
    assert (facts.state, facts.detail) == ("done", detail)


def test_clock_of_a_node_that_is_behind_does_not_hide_the_end(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.create()
    add_submission(run, msgspec.structs.replace(FIRST, time=1000.0))
    journal = JournalWriter(run.journal, attempt=1, clock=lambda: 700.0)
    journal.write(STARTED)
    journal.write(FINISHED)
    cached = CachedJobState(job=JobState("7", "COMPLETED"), time=1010.0)
    tracked = TrackedRun(run)
    tracked.read()
    assert tracked.facts(Reply(jobs={"7": cached}, time=1010.0), 1010.0).state == "done"
    assert tracked.slurm_job_ids() == []
