"""Rows that are no boxes and no polygons: poses, predictions, odd counts. None is read as something else in silence."""

import numpy as np
import pytest

from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.formats.yolo_labels import keypoints_in_polygons, read_labels
from hpc_yolo.data.polygons import Outlines
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.synth import write_shapes_dataset

BOX = "0 0.5 0.5 0.4 0.4"
POINTS = ["0.4 0.4", "0.6 0.4", "0.5 0.6", "0.45 0.5"]
RANDOM = np.random.default_rng(0)


def pose(num_points: int, *flags: int) -> str:
    """A row of a box and points inside it, with the visibilities `flags` in turn; of two numbers each without any."""
    points = [POINTS[number % 4] for number in range(num_points)]
    flagged = [f"{point} {flags[number % len(flags)]}" if flags else point for number, point in enumerate(points)]
    return " ".join([BOX, *flagged])


def read(tmp_path, line: str, kpt_shape=None):
    path = tmp_path / "x.txt"
    path.write_text(f"{line}\n")
    return read_labels(path, 2, kpt_shape)


@pytest.mark.parametrize(
    ("num_points", "flags"),
    [(17, (2,)), (17, (1,)), (17, (0, 1)), (4, (2, 1)), (4, (1,)), (6, (1, 0)), (1, (2,)), (2, (2, 2)), (2, (1,))],
)
def test_a_row_that_can_only_be_a_pose_is_named_as_one(tmp_path, num_points, flags):
    with pytest.raises(ValueError, match=rf"x\.txt:1: {5 + 3 * num_points} columns are .* and {num_points} keypoints"):
        read(tmp_path, pose(num_points, *flags))


def test_invisible_keypoints_may_be_anywhere(tmp_path):
    with pytest.raises(ValueError, match="4 keypoints"):
        read(tmp_path, f"{BOX} 0 0 0 0.5 0.5 1 0 0 0 0.4 0.6 1")


@pytest.mark.parametrize(("num_points", "flags"), [(17, (2, 0)), (4, (1,)), (4, ()), (1, ()), (17, ())])
def test_with_kpt_shape_the_box_of_a_pose_is_read_and_nothing_else(tmp_path, num_points, flags):
    shape = (num_points, 3 if flags else 2)
    rows, polygons = read(tmp_path, f"{pose(num_points, *flags)}\n1 0.2 0.2 0.1 0.1", shape)
    assert rows == pytest.approx(np.array([[0, 0.5, 0.5, 0.4, 0.4], [1, 0.2, 0.2, 0.1, 0.1]], dtype=np.float32))
    assert [len(polygon) for polygon in polygons] == [0, 0]


def test_with_kpt_shape_another_number_of_columns_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"13 columns; with kpt_shape \[17, 3\] lines have 56, or 5 without keypoints"):
        read(tmp_path, pose(4), (17, 3))


@pytest.mark.parametrize(
    "line",
    [
        "0 0.1 0.2 0.5 0.2 0.5 0.8",
        "0 0 0 1 0 1 1 0 1",
        "0 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9",
        "0 0 0.2 0.3 0 0.4 0.5 0 0.6 0.2 1",
        "0 0.5 0 1 0.5 0.5 1 0 0.5 0.2 0.1",
    ],
    ids=["triangle", "corners", "oriented box", "at the left side", "diamond"],
)
def test_polygons_stay_polygons(tmp_path, line):
    assert len(read(tmp_path, line)[1][0]) == (len(line.split()) - 1) // 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"{BOX} 0.93", "6 columns; 5 are needed.*a confidence, as --save-conf writes it, is no label"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.9", "8 columns; 5 are needed.*or a class and a polygon of three points or more"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4 0.4 0.9", "10 columns"),
        ("0", "1 columns"),
        ("0,0.5,0.5,0.1,0.1", "columns are separated by spaces"),
        ("0;0.5;0.5;0.1;0.1", "columns are separated by spaces"),
        ("10 20 30 20 30 40 10 40 plane 0", "not a number"),
        ("0 320 240 64 48", "coordinate 320; coordinates are fractions of the image"),
    ],
)
def test_other_rows_are_refused_in_words(tmp_path, line, words):
    with pytest.raises(ValueError, match=rf"x\.txt:1: .*{words}"):
        read(tmp_path, line)


def test_poses_without_visibility_are_told_from_polygons_where_all_rows_agree():
    poses, polygons = [], []
    for _ in range(20):
        centre, size = RANDOM.uniform(0.3, 0.7, 2), RANDOM.uniform(0.1, 0.5, 2)
        poses.append(np.array([centre, size, *(centre + size * RANDOM.uniform(-0.5, 0.5, (5, 2)))], dtype=np.float32))
        angles = np.sort(RANDOM.uniform(0, 2 * np.pi, 7))
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) * size / 2
        polygons.append((centre + circle).astype(np.float32))
    assert keypoints_in_polygons(Outlines.of(poses)) == 5
    assert keypoints_in_polygons(Outlines.of([*poses, np.zeros((0, 2), dtype=np.float32)])) == 5, "boxes among them"
    assert keypoints_in_polygons(Outlines.of(polygons)) == 0
    assert keypoints_in_polygons(Outlines.of([*poses, *polygons[:5]])) == 0, "polygons among them"
    assert keypoints_in_polygons(Outlines.of([*poses, np.zeros((3, 2), dtype=np.float32)])) == 0
    assert keypoints_in_polygons(Outlines.of(poses[:2])) == 0, "two polygons may be so by chance"
    assert keypoints_in_polygons(Outlines.none(3)) == 0


@pytest.fixture
def poses(tmp_path):
    """A drawn set in whose labels each box is followed by two keypoints of two numbers."""
    path = write_shapes_dataset(tmp_path / "set", num_train=16, num_val=1, image_size=(96, 64))
    for label in (path.parent / "labels" / "train").iterdir():
        rows = [line.split() for line in label.read_text().splitlines()]
        label.write_text("".join(f"{' '.join(row)} {row[1]} {row[2]} {row[1]} {row[2]}\n" for row in rows))
    return path


def test_a_split_of_poses_is_said_and_kpt_shape_gives_its_boxes(poses):
    index = scan_split(load_dataset(poses), "train")
    assert "train: each polygon looks like a box and 2 keypoints, see" in index.messages[-1]
    assert "write kpt_shape: [2, 2] into the dataset YAML" in index.messages[-1]
    poses.write_text(poses.read_text() + "kpt_shape: [2, 2]\n")
    mended = scan_split(load_dataset(poses), "train")
    assert mended.outlines.is_empty and mended.messages == ()
    assert not np.allclose(mended.labels[0], index.labels[0]), "a cache of other rules was believed"
