"""Crowds of a scan in pixels of the file."""

import dataclasses

import numpy as np
from image_sets import index_of

from hpc_yolo.evaluation.crowds import crowds_of


def test_crowds_of_an_index_are_in_pixels_of_each_file():
    index = index_of(["a", "b", "c"], [(40, 60), (100, 200), (10, 10)], [[], [], []])
    rows = np.array([[1, 3, 0.5, 0.5, 0.5, 0.2], [1, 0, 0.5, 0.5, 1, 1], [2, 1, 0.5, 0.5, 1, 1]], dtype=np.float32)
    found = crowds_of(dataclasses.replace(index, crowds=rows))
    assert {image: boxes.tolist() for image, boxes in found.items()} == {
        1: [[3, 50, 40, 150, 60], [0, 0, 0, 200, 100]],
        2: [[1, 0, 0, 10, 10]],
    }
    assert crowds_of(index) == {}
