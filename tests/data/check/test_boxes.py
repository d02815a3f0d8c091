"""Findings about boxes: each kind at its limit, and none for boxes that are as they should be."""

import numpy as np
import pytest

from hpc_yolo.data.check.boxes import MAX_COMPARED, box_findings, overlaps

WIDTH, HEIGHT = 320, 240


def pixels(left, top, right, bottom, class_index=0):
    """Return the label of a box in pixels."""
    return (
        *(class_index, (left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT),
        *((right - left) / WIDTH, (bottom - top) / HEIGHT),
    )


def found(*labels, imgsz=320):
    rows = np.array(labels, dtype=np.float32).reshape(-1, 5)
    return [(finding.kind, finding.box) for finding in box_findings(rows, (HEIGHT, WIDTH), imgsz)]


@pytest.mark.parametrize(
    ("label", "kinds"),
    [
        (pixels(10, 10, 60, 60), []),
        (pixels(0, 0, WIDTH, HEIGHT), []),
        (pixels(-0.9, 0, 50, 50), []),
        (pixels(-1.2, 0, 50, 50), ["beyond-frame"]),
        (pixels(0, 0, WIDTH + 1.2, 50), ["beyond-frame"]),
        (pixels(0, -1.2, 50, 50), ["beyond-frame"]),
        (pixels(0, 0, 50, HEIGHT + 1.2), ["beyond-frame"]),
        (pixels(10, 10, 10, 60), ["no-area"]),
        (pixels(10, 10, 60, 10), ["no-area"]),
        (pixels(10, 10, 12.1, 20), []),
        (pixels(10, 10, 11.9, 20), ["tiny-box"]),
        (pixels(10, 10, 11.9, 200), ["tiny-box"]),
        (pixels(10, 10, 14, 89), []),
        (pixels(10, 10, 14, 91), ["extreme-aspect"]),
        (pixels(10, 10, 91, 14), ["extreme-aspect"]),
    ],
)
def test_box_is_reported_beyond_the_limit_of_its_kind_only(label, kinds):
    assert [kind for kind, _ in found(pixels(100, 100, 150, 150), label)] == kinds


def test_box_is_tiny_at_the_size_of_the_training():
    label = pixels(10, 10, 13, 20)
    assert found(label, imgsz=320) == found(label, imgsz=640) == []
    assert found(label, imgsz=160) == [("tiny-box", 0)]


@pytest.mark.parametrize(
    ("second", "kinds"),
    [
        (pixels(10, 10, 110, 110), [("repeated-box", 1)]),
        (pixels(11, 10, 111, 110), [("repeated-box", 1)]),
        (pixels(14, 10, 114, 110), []),
        (pixels(10, 10, 110, 110, class_index=1), [("two-classes", 1)]),
        (pixels(14, 10, 114, 110, class_index=1), []),
    ],
    ids=["same", "almost", "moved", "class", "class and moved"],
)
def test_box_that_repeats_an_earlier_one_is_reported_once(second, kinds):
    assert found(pixels(10, 10, 110, 110), second) == kinds
    assert {*kinds, ("repeated-box", 2)} <= {*found(pixels(10, 10, 110, 110), second, second)}


def test_worse_box_has_a_larger_weight():
    rows = np.array([pixels(-5, 0, 50, 50), pixels(-9, 100, 50, 150), pixels(10, 10, 11, 20), pixels(10, 10, 11.5, 20)])
    weights = [finding.weight for finding in box_findings(rows.astype(np.float32), (HEIGHT, WIDTH), 320)]
    assert weights == sorted(weights[:2]) + sorted(weights[2:], reverse=True)


def test_image_of_very_many_boxes_is_compared_in_part_only():
    labels = [pixels(10, 10, 110, 110)] * (MAX_COMPARED + 50)
    assert len(found(*labels)) == MAX_COMPARED - 1


def test_overlaps_are_intersections_over_unions():
    corners = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 3]], dtype=np.float64)
    assert overlaps(corners)[0] == pytest.approx([1, 50 / 150, 0, 0])
    assert overlaps(corners)[3].tolist() == [0, 0, 0, 0]
