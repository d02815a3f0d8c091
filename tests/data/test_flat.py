"""Flat sequences: the items are those that went in, and no item is an object of its own."""

import os

import numpy as np
import pytest

from hpc_yolo.data.flat import FlatLabels, FlatPaths

PATHS = ["/a/b.jpg", "", "ä", os.fsdecode(b"gr\xfcn.jpg"), "/c"]
LABELS = [np.arange(n * 5, dtype=np.float32).reshape(n, 5) for n in (2, 0, 1)]


def test_paths_are_returned_as_they_came():
    paths = FlatPaths.of(PATHS)
    assert (len(paths), list(paths), paths[3], paths[-1]) == (5, PATHS, PATHS[3], "/c")
    assert (paths[:2], paths[::-1], paths.index("ä")) == (tuple(PATHS[:2]), tuple(PATHS[::-1]), 2)
    assert paths == FlatPaths.of(PATHS) == PATHS
    assert paths != FlatPaths.of(PATHS[:4])
    assert paths != 5


def test_labels_are_views_of_one_array():
    labels = FlatLabels.of(LABELS)
    assert labels.counts.tolist() == [2, 0, 1]
    for found, expected in zip(labels, LABELS, strict=True):
        assert found.dtype == np.float32 and np.array_equal(found, expected)
        assert np.shares_memory(found, labels.rows) == (len(found) > 0)


@pytest.mark.parametrize("flat", [FlatPaths.of([]), FlatLabels.of([])], ids=["paths", "labels"])
def test_empty_sequence_has_no_items(flat):
    assert (len(flat), list(flat), flat[:3]) == (0, [], ())


@pytest.mark.parametrize("position", [5, -6])
def test_position_outside_is_refused(position):
    with pytest.raises(IndexError):
        FlatPaths.of(PATHS)[position]
