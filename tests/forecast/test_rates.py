"""Rates of a planned run from measured ones: scaling, range, and what is assumed."""

from dataclasses import replace

import pytest
from journal_events import started

from hpc_yolo.forecast.rates import make_rates, spread
from hpc_yolo.forecast.run_times import RunTimes, Steps

MEASURED = RunTimes(
    start=started(steps_per_epoch=5, batch=8, world_size=2),
    steps=[Steps(1, 5, 5.0), Steps(2, 5, 10.0)],
    startups_s=[10.0],
    resumes_s=[4.0],
    warmups_s=[2.0],
    evaluations_s=[3.0],
    num_evaluated=8,
    finishes_s=[6.0],
    stops_s=[0.5],
)


@pytest.mark.parametrize(
    ("batch", "world_size", "num_validation", "step_s", "evaluation_s"),
    [
        (8, 2, 8, 1.5, 3.0),
        (8, 2, 0, 1.5, 3.0),
        (16, 2, 8, 3.0, 3.0),  # twice the images on each rank
        (16, 4, 8, 1.5, 1.5),
        (8, 2, 24, 1.5, 9.0),
    ],
)
def test_rates_are_scaled_by_the_images_of_a_rank(batch, world_size, num_validation, step_s, evaluation_s):
    rates = make_rates([MEASURED], batch, world_size, num_validation)
    assert (rates.step_s, rates.evaluation_s) == (pytest.approx(step_s), pytest.approx(evaluation_s))
    assert rates.fast_step_s == pytest.approx(step_s / 1.5)
    assert rates.slow_step_s == pytest.approx(step_s / 1.5 * 2)
    assert (rates.startup_s, rates.resume_s, rates.warmup_s, rates.stop_s) == (10.0, 4.0, 2.0, 0.5)
    assert (rates.finish_s, rates.assumed) == (6.0, ())


def test_what_was_not_measured_is_named_and_assumed():
    rates = make_rates([replace(MEASURED, evaluations_s=[], finishes_s=[], resumes_s=[])], 8, 2, 16)
    assert rates.evaluation_s == pytest.approx(16 / 2 / (4 / 1.5)), "as fast as training"
    assert rates.finish_s == rates.evaluation_s
    assert rates.resume_s == 10.0
    assert len(rates.assumed) == 2
    assert make_rates([replace(MEASURED, evaluations_s=[])], 8, 2, 0).assumed == ("evaluations (assumed: no time)",)


def test_several_runs_count_by_their_steps():
    other = replace(MEASURED, steps=[Steps(1, 10, 30.0), Steps(2, 10, 30.0)])
    assert make_rates([MEASURED, other], 8, 2, 8).step_s == pytest.approx((15 + 60) / 30)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2.0], (2.0, 2.0)),
        ([2.0, 1.0, 3.0], (1.0, 3.0)),
        ([float(value) for value in range(21)], (2.0, 18.0)),  # one slow epoch does not widen the range
    ],
)
def test_range_is_from_fast_to_slow_epochs(values, expected):
    assert spread(values) == expected
