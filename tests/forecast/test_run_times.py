"""Measured times of one run, from the events of its journal."""

import pytest
from journal_events import started, stepped

from hpc_yolo.forecast.run_times import run_times, step_times_by_epoch
from hpc_yolo.runs.events import AttemptEnded, EpochEnded, Evaluated, TrainingLeft
from hpc_yolo.runs.metrics import Metrics

METRICS = Metrics(precision=0.5, recall=0.5, map50=0.5, map50_95=0.3)


def epoch(time: float, number: int, attempt: int = 1) -> EpochEnded:
    return EpochEnded(
        time=time, attempt=attempt, epoch=number, step=5 * (number + 1), losses={}, lr=0.1, images_per_s=1, seconds=5
    )


def evaluated(time: float, number: int, attempt: int = 1, **fields) -> Evaluated:
    defaults = {"num_images": 8, "metrics": METRICS, "images_per_s": 1, "seconds": 1.0, "is_best": True, "classes": []}
    return Evaluated(time=time, attempt=attempt, epoch=number, step=5 * (number + 1), **(defaults | fields))


def ended(time: float, outcome: str, attempt: int = 1, step: int = 15) -> AttemptEnded:
    return AttemptEnded(time=time, attempt=attempt, outcome=outcome, epoch=3, step=step)


FINISHED = [
    started(100.0, process_started=90.0),
    stepped(120.0, step=2),  # slow once
    stepped(123.0, step=5),
    epoch(123.0, 0),
    evaluated(125.0, 0),
    stepped(127.0, step=7, epoch=1),
    stepped(130.0, step=10, epoch=1),
    epoch(130.0, 1),
    evaluated(133.0, 1),
    stepped(143.0, step=15, epoch=2),
    epoch(143.0, 2),
    evaluated(144.0, 2),
    TrainingLeft(time=144.5, attempt=1, epoch=3, step=15),
    ended(150.0, AttemptEnded.FINISHED),
]


def test_times_of_a_finished_run_leave_out_its_slow_first_epoch():
    times = run_times(FINISHED)
    assert (times.num_steps, times.step_s) == (10, 1.5)
    assert list(step_times_by_epoch(times)) == [1.0, 2.0]
    assert times.warmups_s == [pytest.approx(23 - 5 * 1.5)]
    assert (times.startups_s, times.resumes_s, times.finishes_s, times.stops_s) == ([10.0], [], [6.0], [])
    assert (times.evaluations_s, times.num_evaluated) == ([2.0, 3.0, 1.0], 8)
    assert times.images_per_rank == 8


def test_attempt_that_continues_adds_its_start_and_the_stop_before_it():
    events = [
        *FINISHED[:6],
        TrainingLeft(time=128.0, attempt=1, epoch=1, step=7, signal=12),
        ended(128.5, AttemptEnded.STOPPED, step=7),
        started(210.0, attempt=2, step=7, epoch=1, process_started=204.0),
        stepped(214.0, step=10, epoch=1, attempt=2),
        epoch(214.0, 1, attempt=2),
        stepped(219.0, step=15, epoch=2, attempt=2),
    ]
    times = run_times(events)
    assert (times.startups_s, times.resumes_s, times.stops_s) == ([10.0], [6.0], [0.5])
    assert times.num_steps == 7
    assert times.step_s == pytest.approx(1.0)  # 2 steps in 2 s, 5 in 5 s
    assert times.warmups_s == [pytest.approx(18.0), pytest.approx(1.0)]


def test_only_attempts_with_as_many_ranks_as_the_newest_count():
    events = [*FINISHED, started(300.0, attempt=2, step=15, world_size=2), stepped(310.0, step=17, attempt=2)]
    events.append(stepped(316.0, step=20, attempt=2))
    times = run_times(events)
    assert (times.start.world_size, times.num_steps, times.step_s) == (2, 3, 2.0)
    assert times.evaluations_s == []


@pytest.mark.parametrize(
    ("events", "num_steps"),
    [
        ([], None),
        ([started(100.0)], None),
        ([started(100.0), stepped(110.0, step=2)], 2),  # slow, but all there is
        ([started(100.0), stepped(110.0, step=2), stepped(112.0, step=4)], 2),
        ([stepped(110.0, step=2), stepped(112.0, step=4)], None),  # no start is known
        ([started(100.0), stepped(110.0, step=4), stepped(112.0, step=2), stepped(115.0, step=4)], 2),  # rolled back
    ],
)
def test_short_journals_measure_what_they_can(events, num_steps):
    times = run_times(events)
    assert (times and times.num_steps) == num_steps


def test_journal_without_its_beginning_needs_the_start_of_an_earlier_attempt():
    times = run_times(FINISHED[5:], FINISHED[0])
    assert (times.num_steps, times.startups_s) == (5, [])
    assert times.step_s == pytest.approx(2.0)


def test_evaluation_by_another_job_takes_no_time_of_the_tasks():
    events = [*FINISHED[:4], evaluated(129.0, 0, is_aside=True), *FINISHED[5:8]]
    assert run_times(events).evaluations_s == []
