"""The time limit that is suggested: fewest attempts, then shortest."""

import pytest

from hpc_yolo.forecast.estimate import Limit, Work
from hpc_yolo.forecast.rates import Rates
from hpc_yolo.forecast.suggest import round_up_s, suggest_limit

HOUR_S = 3600
RATES = Rates(step_s=1.0, fast_step_s=0.9, slow_step_s=1.2, startup_s=30.0, resume_s=20.0, evaluation_s=60.0)
TEN_HOURS = Work(epochs=60, steps_per_epoch=600, val_every=10)  # 12 h if slow, and evaluations


@pytest.mark.parametrize(
    ("now_h", "longest_h", "hours", "attempts", "why"),
    {
        "no limit is requested": (None, None, 13.5, 1, "a job with a limit can start sooner"),
        "no limit, and the partition allows less": (None, 8, 7, 2, "can start sooner"),
        "one attempt is possible": (8, 24, 13.5, 1, "1 attempt instead of 2"),
        "fewer are possible": (2, 8, 7, 2, "2 attempts instead of"),
        "more than the partition allows": (24, 8, 7, 2, "2 attempts; the partition allows 08:00:00"),
        "much longer than needed": (72, None, 13.5, 1, "a shorter job can start sooner"),
        "far too short": (0.04, 24, 13.5, 1, "1 attempt"),
    }.values(),
    ids=lambda value: "",
)
def test_suggestion_by_request_and_partition(now_h, longest_h, hours, attempts, why):
    now = None if now_h is None else Limit(int(now_h * HOUR_S), 120)
    longest_s = None if longest_h is None else longest_h * HOUR_S
    found = suggest_limit(TEN_HOURS, RATES, now=now, longest_s=longest_s, before_s=120)
    assert (found.seconds / HOUR_S, found.attempts) == (hours, attempts)
    assert why in found.why


@pytest.mark.parametrize(
    ("now_h", "longest_h"),
    [
        (14, 24),  # fits
        (13.5, None),
        (8, 8),  # no longer job is possible, and a shorter one gains little
        (None, 0.02),  # nothing is enough
    ],
)
def test_no_suggestion_where_nothing_is_better(now_h, longest_h):
    now = None if now_h is None else Limit(int(now_h * HOUR_S), 120)
    longest_s = None if longest_h is None else int(longest_h * HOUR_S)
    assert suggest_limit(TEN_HOURS, RATES, now=now, longest_s=longest_s, before_s=120) is None


@pytest.mark.parametrize(
    ("seconds", "rounded"), [(1, 300), (300, 300), (301, 600), (3601, 4500), (6 * 3600 + 1, 23400), (90_001, 93_600)]
)
def test_limits_are_rounded_up_as_people_write_them(seconds, rounded):
    assert round_up_s(seconds) == rounded
