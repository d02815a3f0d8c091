"""The batch that fills a GPU: a line through what small batches take. No GPU is needed to get a line wrong."""

import pytest

from hpc_yolo.engine.autobatch import batch_for

GIB = 2**30


def linear(start_gib, slope_gib, limit=10**9):
    """A network that takes so much for itself and for each image, and fails above `limit` images."""
    return lambda batch: None if batch > limit else int((start_gib + slope_gib * batch) * GIB)


@pytest.mark.parametrize(
    ("free_gib", "measure", "expected"),
    [
        (40.5, linear(1, 0.5), 62),  # 0.8 x 40.5 = 32.4 > 1 + 0.5 x 62
        (10.2, linear(2, 0.5), 12),
        (5, linear(1, 0.5, limit=4), 6),  # between four, which fitted, and eight, which did not
        (100, linear(1, 0.5, limit=8), 8),  # whatever the line says, sixteen did not fit
        (3, linear(1, 1.5, limit=1), 1),
        (3, linear(1, 1.5, limit=0), 1),  # not even one fits: training says so in its own words
        (1000, linear(1, 0.1), None),  # over a thousand is no sensible batch
        (2, linear(4, 0.5), None),  # all tried ones fitted, so the free memory was not what it seemed
        (40, lambda batch: 2 * GIB, None),  # a line without a slope says nothing
    ],
)
def test_four_fifths_of_the_free_memory_are_filled(free_gib, measure, expected):
    assert batch_for(int(free_gib * GIB), measure) == expected
