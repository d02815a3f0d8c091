"""Anchors: how well they fit the boxes of a dataset, and better ones where they do not."""

import numpy as np
import pytest
from golden import GOLDEN
from image_sets import index_of

from hpc_yolo.data.anchors import anchor_fit, find_anchors, label_sizes, search_fitness

PUBLISHED = GOLDEN["autoanchor_golden"]
P5 = np.array([10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326], dtype=float).reshape(
    -1, 2
)


def test_published_boxes_give_published_recall_and_fitness():
    sizes = np.array(PUBLISHED["wh_pixels"])
    fit = anchor_fit(sizes, P5, PUBLISHED["thr"])
    assert (fit.best_possible_recall, fit.anchors_per_target) == (PUBLISHED["bpr"], PUBLISHED["aat"])
    assert search_fitness(sizes, P5, PUBLISHED["thr"]) == pytest.approx(PUBLISHED["fitness"], rel=1e-6)


def test_label_sizes_vary_by_a_tenth_around_the_training_size():
    labels = [[0, 0.5, 0.5, 0.5, 0.25]], [[0, 0.5, 0.5, 1, 1]] * 2, []
    index = index_of("abc", [(100, 200), (400, 100), (50, 50)], labels)
    sizes = label_sizes(index, 640, np.random.default_rng(0))
    assert sizes.shape == (3, 2)
    scales = sizes / [[320, 80], [160, 640], [160, 640]]
    assert np.allclose(scales[:, 0], scales[:, 1]) and scales[1, 0] == scales[2, 0] != scales[0, 0]
    assert ((scales >= 0.9) & (scales <= 1.1)).all()


def test_found_anchors_fit_boxes_that_given_ones_do_not():
    """Long thin boxes, as of text lines: the family's own anchors reach few of them."""
    random = np.random.default_rng(0)
    sizes = random.uniform((200, 4), (600, 12), (3000, 2))
    assert anchor_fit(sizes, P5, 4).best_possible_recall < 0.1
    found = find_anchors(sizes, 9, 640, 4, np.random.default_rng(1))
    assert anchor_fit(sizes, found, 4).best_possible_recall > 0.999
    assert (np.diff(found.prod(axis=1)) >= 0).all()
    assert np.array_equal(found, find_anchors(sizes, 9, 640, 4, np.random.default_rng(1))), "depends on the seed alone"


@pytest.mark.parametrize("sizes", [[], [[0, 0]], [[1, 1], [1.5, 1]], [[50, 40], [100, 90]]])
def test_anchors_are_found_with_fewer_boxes_than_anchors(sizes):
    found = find_anchors(np.array(sizes, dtype=float).reshape(-1, 2), 9, 640, 4, np.random.default_rng(0))
    assert found.shape == (9, 2) and np.isfinite(found).all() and (found > 0).all()


def test_box_without_width_fits_no_anchor():
    with np.errstate(all="raise"):
        fit = anchor_fit(np.array([[0.0, 10], [10, 13]]), P5, 4)
    assert fit.best_possible_recall == 0.5


@pytest.mark.parametrize("max_evolved", [50, 1000], ids=["a sample", "all"])
def test_large_sets_are_sampled_before_the_search(monkeypatch, max_evolved):
    monkeypatch.setattr("hpc_yolo.data.anchors.MAX_EVOLVED_SIZES", max_evolved)
    sizes = np.random.default_rng(0).uniform((200, 4), (600, 12), (300, 2))
    found = find_anchors(sizes, 9, 640, 4, np.random.default_rng(1))
    assert anchor_fit(sizes, found, 4).best_possible_recall > 0.99
