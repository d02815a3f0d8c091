"""Which attempt a run ended with, by its journal."""

import pytest

from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.events import AttemptEnded, Cause
from hpc_yolo.runs.run_end import RunEnd, recorded_end


def ended(attempt, cause, *, requeued=False, step=9):
    outcome = {Cause.FINISHED: "finished", Cause.ERROR: "failed"}.get(cause, "stopped")
    return AttemptEnded(attempt=attempt, outcome=outcome, epoch=0, step=step, cause=cause, requeued=requeued)


FIRST = ended(1, Cause.PREEMPTED, requeued=True, step=4)


@pytest.mark.parametrize(
    ("events", "end"),
    [
        ([], None),
        ([FIRST], None),
        ([FIRST, ended(2, Cause.FINISHED)], RunEnd(2, True, "finished")),
        ([FIRST, ended(2, Cause.FINISHED), ended(3, Cause.FINISHED)], RunEnd(2, True, "finished")),
        ([FIRST, ended(2, Cause.FINISHED), ended(3, Cause.FINISHED, step=20)], RunEnd(3, True, "finished")),
        ([ended(1, Cause.ERROR), ended(2, Cause.ERROR)], RunEnd(2, False, "error")),
        ([ended(1, Cause.ERROR), ended(2, Cause.FINISHED)], RunEnd(2, True, "finished")),
        ([ended(1, Cause.TIME_LIMIT)], RunEnd(1, False, "time limit")),
        ([ended(1, Cause.FINISHED), ended(2, Cause.PREEMPTED, requeued=True)], None),
    ],
    ids=["no attempt", "requeued", "finished", "found finished", "trained on", "failed twice", "repaired", "off", "on"],
)
def test_end_of_run(events, end):
    assert recorded_end(Attempts(events)) == end


@pytest.mark.parametrize(
    ("cause", "expected"), [(Cause.CANCELLED, True), (Cause.INTERRUPTED, True), (Cause.KILLED, False)]
)
def test_end_by_a_person(cause, expected):
    assert RunEnd(1, False, cause).is_by_person == expected
