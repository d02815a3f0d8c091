"""What counts as a change between two records of benchmarks, and their charts."""

from __future__ import annotations

import pytest
from bench_records import record, result

from hpc_yolo.bench.chart import commit_charts
from hpc_yolo.bench.compare import compare, missing

QUIET = [0.99, 1.0, 1.0, 1.0, 1.01]


def scaled(factor, rounds=QUIET):
    return [factor * seconds for seconds in rounds]


@pytest.mark.parametrize(
    ("before", "after", "outcome"),
    [
        (scaled(1), scaled(1.2), "slower"),
        (scaled(1.2), scaled(1), "faster"),
        (scaled(1), scaled(1), "same"),
        (scaled(1), scaled(1.04), "same"),
        ([0.5, 0.8, 1.0, 1.3, 1.6], [0.9, 1.1, 1.2, 1.4, 1.7], "same"),
        (scaled(1), [1.0, 1.0, 1.0, 1.01, 9.0], "same"),
    ],
    ids=["slower", "faster", "equal", "outside, but small", "large, but rounds overlap", "one slow round"],
)
def test_change_is_real_only_outside_the_spread_of_both(before, after, outcome):
    (change,) = compare(record(result(before)), record(result(after)))
    assert change.outcome == outcome


@pytest.mark.parametrize("noisy", ["before", "after"])
def test_change_within_noise_floor_of_either_is_none(noisy):
    quiet, loud = ([1.15] * 5, [1.15] * 5), ([1.0] * 5, [1.3] * 5)
    records = []
    for name, seconds in (("before", scaled(1)), ("after", scaled(1.25))):
        reference_s, again_s = loud if noisy == name else quiet
        records.append(record(result(seconds, reference_s=reference_s, again_s=again_s)))
    (change,) = compare(*records)
    assert change.noise == pytest.approx(0.3)
    assert change.outcome == "same"


def test_slow_machine_is_no_change():
    before = record(result(scaled(1), reference_s=QUIET))
    after = record(result(scaled(3), reference_s=scaled(3)))
    (change,) = compare(before, after)
    assert change.fraction == pytest.approx(0)


def test_other_work_is_not_compared_but_named():
    before = record(result(QUIET, amount=64), result(QUIET, bench="val"))
    after = record(result(QUIET, amount=32), result(QUIET, bench="val"))
    assert [change.bench for change in compare(before, after)] == ["val"]
    assert missing(before, after) == ["data: work", "data: work"]
    assert missing(before, before) == []


def test_charts_have_a_line_for_each_work_over_whole_records():
    records = [
        record(result(scaled(1)), commit="a"),
        record(result(scaled(7)), commit="quick", is_quick=True),
        record(result(scaled(2)), result(QUIET, bench="val"), commit="b"),
    ]
    data, val = commit_charts(records)
    assert (data.lines[0].xs, data.lines[0].ys) == ((1, 2), (1.0, 2.0))
    assert "1 (a) to 2 (b)" in data.x_label
    assert val.lines[0].xs == (2,)


def test_quick_records_alone_are_drawn():
    (chart,) = commit_charts([record(result(QUIET), is_quick=True)])
    assert chart.lines[0].ys == (1.0,)
