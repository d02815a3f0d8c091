"""A plan against a real run: the quickstart on the test cluster, which its time limit of 5 minutes divided in two.

The journal is recorded (without losses, classes, and two of three log lines), since a busy machine changes its speed
from one run to the next. `benchmarks/plan.py` compares with a run of its own.
"""

from pathlib import Path

import pytest

from hpc_yolo.forecast.estimate import Limit, Work, estimate
from hpc_yolo.forecast.rates import make_rates
from hpc_yolo.forecast.run_times import run_times
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.time_ledger import make_ledger

JOURNAL = Path(__file__).parent / "recorded" / "quickstart_in_two_attempts.jsonl"
LIMIT = Limit(seconds=300, signal_before_s=120)
WORK = Work(epochs=30, steps_per_epoch=15, val_every=5)
MOST_OFF = 0.15


@pytest.mark.parametrize("fraction", [0.2, 0.3, 0.4, 0.5, 0.6])
def test_first_part_of_the_journal_predicts_wall_time_and_attempts_of_the_whole(fraction):
    events = read_events(JOURNAL)
    real = [attempt.end - attempt.begin for attempt in make_ledger(events).attempts]
    first = [event for event in events if event.attempt == 1 and getattr(event, "step", 0) <= fraction * WORK.num_steps]
    times = run_times(first)
    assert times is not None
    assert times.finishes_s == times.stops_s == [], "it is not known how the run goes on"
    found = estimate(WORK, make_rates([times], batch=16, world_size=2, num_validation=0), LIMIT)
    assert found.attempts is not None
    assert found.attempts.expected == len(real) == 2
    assert found.wall_s.expected == pytest.approx(sum(real), rel=MOST_OFF)
    assert found.wall_s.low < sum(real) < found.wall_s.high
