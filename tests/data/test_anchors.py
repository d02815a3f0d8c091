"""Anchors that fit no box of a dataset leave those boxes unlearned, and nothing else tells of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from hpc_yolo.data.anchors import anchor_fit, find_anchors, label_sizes, search_fitness
from hpc_yolo.data.labels import ImageIndex

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "yolov5_golden.json").read_text())["autoanchor_golden"]
P5 = np.array([10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326], dtype=float).reshape(
    -1, 2
)


def test_recall_anchors_a_target_and_fitness_are_the_published_ones():
    sizes = np.array(GOLDEN["wh_pixels"])
    fit = anchor_fit(sizes, P5, GOLDEN["thr"])
    assert (fit.best_possible_recall, fit.anchors_per_target) == (GOLDEN["bpr"], GOLDEN["aat"])
    assert search_fitness(sizes, P5, GOLDEN["thr"]) == pytest.approx(GOLDEN["fitness"], rel=1e-6)


def index_of(labels, shapes_hw):
    return ImageIndex(
        paths=tuple(f"{number}.png" for number in range(len(labels))),
        shapes_hw=np.array(shapes_hw, dtype=np.int32),
        labels=tuple(np.array(rows, dtype=np.float32).reshape(-1, 5) for rows in labels),
        num_backgrounds=0,
        num_corrupt=0,
        messages=(),
    )


def test_boxes_are_measured_on_the_training_image_a_tenth_larger_or_smaller():
    index = index_of([[[0, 0.5, 0.5, 0.5, 0.25]], [[0, 0.5, 0.5, 1, 1]] * 2, []], [(100, 200), (400, 100), (50, 50)])
    sizes = label_sizes(index, 640, np.random.default_rng(0))
    assert sizes.shape == (3, 2)
    scales = sizes / [[320, 80], [160, 640], [160, 640]]
    assert np.allclose(scales[:, 0], scales[:, 1]) and scales[1, 0] == scales[2, 0] != scales[0, 0]
    assert ((scales >= 0.9) & (scales <= 1.1)).all()


def test_found_anchors_fit_boxes_that_the_given_ones_do_not():
    """Long thin boxes, as of text lines: the family's own anchors reach few of them."""
    random = np.random.default_rng(0)
    sizes = random.uniform((200, 4), (600, 12), (3000, 2))
    assert anchor_fit(sizes, P5, 4).best_possible_recall < 0.1
    found = find_anchors(sizes, 9, 640, 4, np.random.default_rng(1))
    assert anchor_fit(sizes, found, 4).best_possible_recall > 0.999
    assert (np.diff(found.prod(axis=1)) >= 0).all()
    assert np.array_equal(found, find_anchors(sizes, 9, 640, 4, np.random.default_rng(1))), "depends on the seed alone"


@pytest.mark.parametrize("sizes", [[], [[0, 0]], [[1, 1], [1.5, 1]], [[50, 40], [100, 90]]])
def test_with_hardly_any_box_there_are_still_anchors(sizes):
    found = find_anchors(np.array(sizes, dtype=float).reshape(-1, 2), 9, 640, 4, np.random.default_rng(0))
    assert found.shape == (9, 2) and np.isfinite(found).all() and (found > 0).all()


def test_a_box_without_width_fits_nothing_and_breaks_nothing():
    with np.errstate(all="raise"):
        fit = anchor_fit(np.array([[0.0, 10], [10, 13]]), P5, 4)
    assert fit.best_possible_recall == 0.5
