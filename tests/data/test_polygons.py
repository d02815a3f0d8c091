"""Outlines of objects: cut as the original's sampled points are, and kept with their objects."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_sets import outlines_of

from hpc_yolo.data import augment
from hpc_yolo.data.augment import Warp
from hpc_yolo.data.polygons import visible_hulls

QUICK = settings(deadline=None, database=None, derandomize=True, max_examples=60)
S = 128


@QUICK
@given(
    seed=st.integers(0, 10**6),
    angle=st.floats(-180, 180),
    scale=st.floats(0.3, 1.9),
    shear=st.floats(-10, 10),
    perspective=st.sampled_from([0.0, 0.001, -0.001]),
    shift=st.floats(0, 1),
)
def test_outline_is_cut_like_many_points_of_it(seed, angle, scale, shear, perspective, shift):
    """The published way: many points along the closed outline, those inside the output, their hull."""
    random = np.random.default_rng(seed)
    polygons = [random.uniform(0, 2 * S, size=(random.integers(3, 9), 2)) for _ in range(3)]
    warp = Warp(perspective, perspective / 2, angle, scale, shear, -shear, shift, 1 - shift)
    matrix = augment.warp_matrix(warp, (2 * S, 2 * S), (S, S))
    hulls = visible_hulls(outlines_of(polygons[0], [], *polygons[1:]), matrix, (S, S))
    assert hulls[1].tolist() == [0, 0, 0, 0], "an object that has only a box"
    for polygon, hull in zip(polygons, hulls[[0, 2, 3]], strict=True):
        many = 4000
        closed = np.concatenate([polygon, polygon[:1]])
        at = np.linspace(0, len(polygon), many)
        points = np.stack([np.interp(at, np.arange(len(closed)), closed[:, axis]) for axis in (0, 1)], axis=1)
        moved = np.concatenate([points, np.ones((many, 1))], axis=1) @ matrix.T
        moved = moved[:, :2] / moved[:, 2:]
        inside = moved[((moved >= 0) & (moved <= S)).all(axis=1)]
        if len(inside) == 0:
            assert (hull[2:] - hull[:2]).min() < 2, "between two points less can be seen than a box needs"
        else:
            assert (hull[:2] <= inside.min(axis=0) + 1e-3).all() and (hull[2:] >= inside.max(axis=0) - 1e-3).all()
            expected = [*inside.min(axis=0), *inside.max(axis=0)]
            assert hull == pytest.approx(expected, abs=2.0), "two points are at most half a pixel apart, scaled"


def test_points_behind_the_viewer_are_not_visible():
    """A strong perspective turns the far side of a large canvas over; dividing by w alone would bring it back."""
    matrix = np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1.0]])  # w = 0 at x = 100
    ahead, behind = [[10, 10], [20, 10], [20, 20]], [[150, -60], [160, -60], [160, -70]]
    hulls = visible_hulls(outlines_of(ahead, behind), matrix, (S, S))
    assert hulls[0] == pytest.approx([10 / 0.9, 10 / 0.9, 20 / 0.8, 20 / 0.8])
    assert hulls[1].tolist() == [0, 0, 0, 0]


def test_outline_around_the_whole_image_is_not_visible():
    """Only the line counts, as published: of a sky behind everything no box is left."""
    hulls = visible_hulls(outlines_of([[-9, -9], [S + 9, -9], [S + 9, S + 9], [-9, S + 9]]), np.eye(3), (S, S))
    assert hulls.tolist() == [[0, 0, 0, 0]]
