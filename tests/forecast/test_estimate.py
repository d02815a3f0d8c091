"""Attempts and wall time of a planned run, against sums by hand."""

import pytest

from hpc_yolo.forecast.estimate import MAX_ATTEMPTS, Estimate, Limit, Spread, Work, attempt_times, estimate
from hpc_yolo.forecast.rates import Rates

RATES = Rates(
    step_s=1.0,
    fast_step_s=0.8,
    slow_step_s=1.5,
    startup_s=10.0,
    resume_s=4.0,
    warmup_s=2.0,
    evaluation_s=6.0,
    finish_s=5.0,
    stop_s=1.0,
)
WORK = Work(epochs=4, steps_per_epoch=10)


@pytest.mark.parametrize(
    ("work", "usable_s", "expected"),
    {
        "without a limit": (WORK, None, [12 + 40 + 4 * 6 + 5]),
        "a limit that is enough": (WORK, 1000, [81]),
        "evaluations after every second epoch": (Work(4, 10, val_every=2), None, [12 + 40 + 12 + 5]),
        "only after the last": (Work(4, 10, val_every=0), None, [12 + 40 + 6 + 5]),
        "some steps are done: it resumes": (Work(4, 10, 1, first_step=25), None, [6 + 15 + 2 * 6 + 5]),
        "two attempts": (WORK, 50, [51, 6 + 18 + 2 * 6 + 5]),
        "an interrupted evaluation is done again": (WORK, 46, [47, 6 + 6 + 20 + 2 * 6 + 5 - 4 - 2]),
        "the end after the last evaluation needs no further attempt": (WORK, 77, [81]),
        "nothing is done before the signal": (WORK, 12, None),
        "an evaluation fits in no attempt": (WORK, 11.5, None),
        "an evaluation does not fit after a resumption": (Work(1, 30, 1), 8, None),
    }.values(),
    ids=lambda value: "",
)
def test_attempts_by_time_limit(work, usable_s, expected):
    found = attempt_times(work, RATES, usable_s)
    if expected is not None and len(expected) > 1:
        assert found is not None
        assert len(found) == len(expected)
        assert found[0] == expected[0]
        return
    assert found == expected


@pytest.mark.parametrize("usable_s", [31, 40, 57, 80])
def test_no_step_is_lost_and_none_is_done_twice(usable_s):
    """The time of all attempts is that of one, and what each further attempt costs."""
    work = Work(epochs=20, steps_per_epoch=10, val_every=0)
    times = attempt_times(work, RATES, usable_s)
    assert times is not None
    extra = len(times) - 1
    idle_s = sum(usable_s - one + RATES.stop_s for one in times[:-1])
    assert idle_s == 0
    ideal_s = sum(attempt_times(work, RATES, None)) + extra * (RATES.resume_s + RATES.warmup_s + RATES.stop_s)
    assert ideal_s <= sum(times) < ideal_s + extra * (RATES.step_s + RATES.evaluation_s)


def test_range_follows_from_fast_and_slow_epochs_and_from_early_signals():
    found = estimate(WORK, RATES, Limit(seconds=200, signal_before_s=120))
    assert (found.attempts.low, found.attempts.expected) == (1, 2)
    assert 2 < found.attempts.high < 20
    assert found.wall_s.low == 12 + 32 + 24 + 5
    assert found.wall_s.low < found.wall_s.expected < found.wall_s.high
    assert estimate(WORK, RATES, None) == Estimate(Spread(73, 81, 101), Spread(1, 1, 1))


@pytest.mark.parametrize(("limit_s", "attempts"), [(125, None), (172, Spread(2, 4, MAX_ATTEMPTS))])
def test_limit_that_is_too_short_is_reported_without_attempts(limit_s, attempts):
    found = estimate(WORK, RATES, Limit(limit_s, 120))
    assert (found.attempts is None) == (attempts is None)
    assert found.wall_s.low <= found.wall_s.expected <= found.wall_s.high
    assert found.wall_s.high < 10_000
