"""Copies of outlined objects: which, where, and never over another object."""

import numpy as np
import pytest
from image_sets import TRIANGLE, outlines_of

from hpc_yolo.data.copy_paste import covered_fractions, draw_copied, paste_mirrored

S = 128


def test_copy_is_mirrored_and_lies_in_its_box():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 100, size=(S, S, 3), dtype=np.uint8)
    square = np.array([[10, 20], [30, 20], [30, 50], [10, 50]], dtype=np.float32)
    pixels[20:50, 10:30] += 100
    before = pixels.copy()
    boxes = np.array([[3, 10, 20, 30, 50]], dtype=np.float32)
    pasted, more, outlines = paste_mirrored(pixels, boxes, outlines_of(square), np.array([0]))
    assert more.tolist() == [[3, 10, 20, 30, 50], [3, S - 30, 20, S - 10, 50]]
    assert outlines.counts.tolist() == [4, 4]
    assert outlines.polygon(1).tolist() == [[S - x, y] for x, y in square.tolist()]
    assert (pasted[20:50, S - 30 : S - 10] == before[20:50, 10:30][:, ::-1]).all()
    changed = (pasted != before).any(axis=2)
    changed[19:52, S - 32 : S - 9] = False
    assert not changed.any(), "pixels off the object"


def square_at(left: float, top: float, side: float = 20) -> tuple[list[float], list[list[float]]]:
    right, bottom = left + side, top + side
    return [0, left, top, right, bottom], [[left, top], [right, top], [right, bottom], [left, bottom]]


@pytest.mark.parametrize(
    ("left", "is_pasted"),
    [(S / 2 - 10, False), (S / 2 - 20, True), (S / 2 - 16.9, False), (S / 2 - 17.1, True)],
    ids=["in the middle, on itself", "beside itself", "over 31 %", "over 29 %"],
)
def test_copy_may_not_hide_an_object(left, is_pasted):
    box, square = square_at(left, 20)
    boxes = np.array([box], dtype=np.float32)
    _, more, _ = paste_mirrored(np.zeros((S, S, 3), np.uint8), boxes, outlines_of(square), np.array([0]))
    assert (len(more) == 2) is is_pasted


def test_copy_may_not_hide_an_earlier_copy():
    (first, one), (second, other) = square_at(10, 20), square_at(12, 20)
    boxes = np.array([first, second], dtype=np.float32)
    arguments = np.zeros((S, S, 3), np.uint8), boxes, outlines_of(one, other)
    assert len(paste_mirrored(*arguments, np.array([0, 1]))[1]) == 3


def test_covered_fraction_is_that_of_the_object():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 100, 100], [50, 50, 60, 60], [3, 3, 3, 9]], dtype=np.float32)
    cover = np.array([5, 0, 15, 10], dtype=np.float32)
    assert covered_fractions(boxes, cover) == pytest.approx([0.5, 0.01, 0, 0])


@pytest.mark.parametrize(("fraction", "num_copied"), [(0.0, 0), (0.1, 0), (0.3, 2), (0.5, 2), (1.0, 5)])
def test_fraction_of_the_outlined_objects_is_copied_each_once(fraction, num_copied):
    """round(fraction x n), to the even number where two are near; an object that has only a box cannot be cut out."""
    outlines = outlines_of(*(TRIANGLE if number % 2 else [] for number in range(10)))
    seen = set()
    for seed in range(60):
        chosen = draw_copied(np.random.default_rng(seed), outlines, fraction).tolist()
        assert len(chosen) == len(set(chosen)) == num_copied
        seen |= set(chosen)
    assert seen == (set(range(1, 10, 2)) if num_copied else set())
