"""The fold of a journal into attempts, which everything that asks about attempts reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from journal_events import started, stepped

from hpc_yolo.runs.attempts import Attempts, count_causes
from hpc_yolo.runs.events import (
    AnyEvent,
    AttemptEnded,
    CheckpointSaved,
    TrainingLeft,
    WarningRaised,
)


def saved(time: float, step: int, attempt: int = 1) -> CheckpointSaved:
    return CheckpointSaved(time=time, attempt=attempt, epoch=0, step=step, path="x", size_bytes=1, seconds=0.1)


def ended(time: float, attempt: int = 1, cause: str = "preempted", **fields: Any) -> AttemptEnded:
    return AttemptEnded(time=time, attempt=attempt, outcome="stopped", epoch=0, step=0, cause=cause, **fields)


def left(time: float, attempt: int = 1) -> TrainingLeft:
    return TrainingLeft(time=time, attempt=attempt, epoch=0, step=5)


def warning(time: float, attempt: int = 1) -> WarningRaised:
    return WarningRaised(time=time, attempt=attempt, message="x")


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], None),
        ([started(1)], 1),
        ([started(1), left(2)], 1),
        ([started(1), ended(2)], None),
        ([started(1), ended(2), warning(3, 2)], None),  # an attempt that has not begun to train is not asked about
        ([started(1), ended(2), started(3, 2)], 2),
        ([started(1), started(3, 2), ended(4, 1)], 2),  # written for the first by the second
        ([started(1), ended(2, requeued=True), ended(3)], None),
        ([ended(1, 1), ended(2, 2)], None),  # two that ended before they began to train
    ],
)
def test_lost_attempt_is_the_newest_without_a_recorded_end(events: Sequence[AnyEvent], expected: int | None) -> None:
    lost = Attempts(events).lost
    assert (None if lost is None else lost.attempt) == expected


@pytest.mark.parametrize(
    ("events", "last_step", "has_stepped"),
    [
        ([started(1, step=40)], 40, False),
        ([started(1, step=40), stepped(2, 50)], 50, True),
        ([started(1, step=40), stepped(2, 50), stepped(3, 45)], 45, True),  # back to a checkpoint after bad values
        ([started(1, step=40), saved(2, 41)], 40, True),
        ([started(1, step=40), saved(2, 40)], 40, False),
        ([started(1, step=3), ended(2)], 3, False),
        ([ended(2)], 0, False),
    ],
)
def test_last_step_and_has_stepped_follow_the_events(
    events: Sequence[AnyEvent], last_step: int, has_stepped: bool
) -> None:
    attempts = Attempts(events)
    (attempt,) = attempts
    assert (attempts.last_step, attempt.last_step, attempt.has_stepped) == (last_step, last_step, has_stepped)


def test_times_of_an_attempt() -> None:
    (attempt,) = Attempts([warning(8), started(10, process_started=6), stepped(20, 5)])
    assert (attempt.begin, attempt.training_begin, attempt.last_time, attempt.end) == (6, 10, 20, 20)
    (attempt,) = Attempts([warning(8), ended(30)])
    assert (attempt.begin, attempt.training_begin, attempt.last_time, attempt.end) == (8, 8, 8, 30)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([started(1)], True),
        ([started(1), ended(2)], False),
        ([started(1), ended(2, requeued=True)], True),
        ([started(1), ended(2, requeued=True), ended(3)], False),  # Slurm refused
    ],
)
def test_attempt_goes_on_unless_its_last_record_ends_the_run(events: Sequence[AnyEvent], expected: bool) -> None:
    newest = Attempts(events).newest
    assert newest is not None and newest.goes_on is expected


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([warning(1)], "NoneType"),
        ([started(1)], "AttemptStarted"),
        ([started(1), left(2)], "TrainingLeft"),
        ([started(1), left(2), ended(3)], "AttemptEnded"),
        ([started(1), left(2), ended(3), started(4, 2)], "AttemptStarted"),
    ],
)
def test_newest_phase_of_the_newest_attempt(events: Sequence[AnyEvent], expected: str) -> None:
    newest = Attempts(events).newest
    assert type(None if newest is None else newest.newest).__name__ == expected


def test_causes_are_counted_by_the_last_record_of_each_attempt() -> None:
    events = [ended(1, 1, "preempted"), ended(2, 1, "time limit"), ended(3, 2, "time limit"), started(4, 3)]
    attempts = Attempts(events)
    assert count_causes(attempts) == {"time limit": 2}
    assert count_causes(attempts.without(2)) == {"time limit": 1}
    assert attempts.last_end == events[2]


def test_nodes_that_failed_are_listed_once() -> None:
    events = [ended(1, 1, failed_nodes=["n2"]), ended(2, 2, failed_nodes=["n1", "n2"])]
    assert Attempts(events).failed_nodes == ["n1", "n2"]


def test_fold_grows_with_the_journal() -> None:
    events: list[AnyEvent] = [started(1), stepped(2, 5), ended(3, requeued=True), started(4, 2, 5), stepped(5, 9, 2)]
    growing = Attempts()
    for number, event in enumerate(events, 1):
        growing.add(event)
        assert list(growing) == list(Attempts(events[:number]))
    assert [attempt.number for attempt in growing.started] == [1, 2]
    assert growing.get(3) is None and growing.get(None) is None
