"""Series of values in bounded memory."""

import itertools

from hpc_yolo.monitor.trend import Trend, resampled


def test_trend_is_even_over_steps_and_drops_lost_ones():
    trend = Trend(max_points=50)
    for step in range(100_000):
        trend.add(step, float(step))
    assert len(trend.steps) <= 50
    assert len(trend.steps) > 20
    assert max(later - earlier for earlier, later in itertools.pairwise(trend.steps)) <= 2 * 4096
    assert trend.values[-1] == 99_999.0
    trend.add(40_000, 1.0)  # a new attempt goes on before what the one before it had reached
    assert (trend.steps[-1], trend.values[-1]) == (40_000, 1.0)
    assert len(resampled(trend, 8)) == 8
