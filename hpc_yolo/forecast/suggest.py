"""The time limit to request: the shortest one with which the run takes as few attempts as the partition allows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hpc_yolo.core.units import counted, format_time
from hpc_yolo.forecast.estimate import LAUNCH_S, SIGNAL_EARLY_S, Limit, Work, attempt_times
from hpc_yolo.forecast.rates import Rates

MARGIN = 1.1  # of the time of slow epochs
MUCH_LONGER = 1.5  # times the time that it needs, a limit is worth changing
ROUNDED_TO_S = ((3600, 300), (6 * 3600, 900), (24 * 3600, 1800), (math.inf, 3600))  # up to, multiple of


@dataclass(frozen=True)
class SuggestedLimit:
    """A time limit in seconds, the number of attempts with it if epochs are slow, and why it is suggested."""

    seconds: int
    attempts: int
    why: str


def suggest_limit(
    work: Work, rates: Rates, *, now: Limit | None, longest_s: int | None, before_s: int
) -> SuggestedLimit | None:
    """Return a better time limit than `now`; None where there is none.

    Args:
        now: the limit that the spec requests; None: none at all.
        longest_s: the longest limit that the partition allows; None: any.
        before_s: seconds between the signal and the limit.
    """

    def attempts(limit_s: float) -> int | None:
        limit = Limit(int(limit_s), min(before_s, int(limit_s) // 2))
        times = attempt_times(work, rates.slow(), limit.usable_s(SIGNAL_EARLY_S[-1]) / MARGIN)
        return None if times is None else len(times)

    whole_s = sum(attempt_times(work, rates.slow(), None) or ())
    seconds = round_up_s(whole_s * MARGIN + before_s + SIGNAL_EARLY_S[-1] + LAUNCH_S)
    number: int | None = 1
    if longest_s is not None and seconds > longest_s:
        number = attempts(longest_s)
        if number is None:
            return None
        fewest = number
        seconds = min(
            round_up_s(_least(lambda limit_s: (attempts(limit_s) or math.inf) <= fewest, longest_s)), longest_s
        )
    assert number is not None
    if now is None:
        return SuggestedLimit(seconds, number, "a job with a limit can start sooner, in gaps between others")
    current = attempts(now.seconds)
    if longest_s is not None and now.seconds > longest_s:
        why = f"{counted(number, 'attempt')}; the partition allows {format_time(longest_s)}"
        return SuggestedLimit(seconds, number, why)
    if current is None:
        return SuggestedLimit(seconds, number, counted(number, "attempt"))
    if number < current:
        return SuggestedLimit(seconds, number, f"{counted(number, 'attempt')} instead of {current}")
    if now.seconds > MUCH_LONGER * seconds:
        return SuggestedLimit(
            seconds, number, "it is enough, and a shorter job can start sooner, in gaps between others"
        )
    return None


def round_up_s(seconds: float) -> int:
    """Return `seconds` rounded up as people write times: to multiples of 5 minutes up to an hour, and so on."""
    multiple_s = next(multiple_s for up_to_s, multiple_s in ROUNDED_TO_S if seconds <= up_to_s)
    return math.ceil(seconds / multiple_s) * multiple_s


def _least(is_enough: Callable[[int], bool], enough_s: int) -> int:
    """Return, to the minute, the least number of seconds that is enough; `enough_s` is."""
    low_s, high_s = 0, enough_s
    while high_s - low_s > 60:
        middle_s = (low_s + high_s) // 2
        low_s, high_s = (low_s, middle_s) if is_enough(middle_s) else (middle_s, high_s)
    return high_s
