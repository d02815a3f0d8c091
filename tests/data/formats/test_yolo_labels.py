"""Lines of label files: boxes, polygons and keypoints are read, and anything else is refused."""

import numpy as np
import pytest
from image_sets import TRIANGLE

from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.formats.yolo_labels import clipped_line, keypoints_in_polygons, read_labels
from hpc_yolo.data.polygons import Outlines
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.synth import write_shapes_dataset

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BOX = "0 0.5 0.5 0.4 0.4"
POINTS = ["0.4 0.4", "0.6 0.4", "0.5 0.6", "0.45 0.5"]
RANDOM = np.random.default_rng(0)


def pose(num_points: int, *flags: int) -> str:
    """Return a line of a box and points inside it, with the visibilities `flags` in turn, if any."""
    points = [POINTS[number % 4] for number in range(num_points)]
    flagged = [f"{point} {flags[number % len(flags)]}" if flags else point for number, point in enumerate(points)]
    return " ".join([BOX, *flagged])


def read(tmp_path, text: str | bytes, kpt_shape=None, num_classes: int = 2):
    path = tmp_path / "x.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_labels(path, num_classes, kpt_shape)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("\n  \n", []),
        ("0 0 0 0 0\n1 1 1 1 1", [[0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]),
        ("1.0\t0.5 0.5  5e-1 0.25\r\n", [[1, 0.5, 0.5, 0.5, 0.25]]),
        (
            "1 0.9 0.5 0.1 0.1\n0 0.1 0.5 0.1 0.1\n1 0.9 0.5 0.1 0.1\n",
            [[1, 0.9, 0.5, 0.1, 0.1], [0, 0.1, 0.5, 0.1, 0.1]],
        ),
        ("0 0 0 1 0 1 1 0 1\n", [[0, 0.5, 0.5, 1, 1]]),
    ],
    ids=["empty", "blank", "edges", "any number form", "once and in order", "polygon"],
)
def test_labels_are_read_in_any_usual_form(tmp_path, text, expected):
    assert read(tmp_path, text)[0] == pytest.approx(np.array(expected, dtype=np.float32).reshape(-1, 5))


def test_label_file_with_a_byte_order_mark_is_read(tmp_path):
    """Windows puts it in front; it is no part of the first class."""
    labels, _ = read(tmp_path, BYTE_ORDER_MARK + b"1 0.5 0.5 0.25 0.25\r\n")
    assert labels.tolist() == [[1, 0.5, 0.5, 0.25, 0.25]]


def test_boxes_and_polygons_may_be_in_one_file_and_duplicates_count_once(tmp_path):
    labels, polygons = read(tmp_path, "1 0.5 0.5 0.2 0.2\n0 0.2 0.2 0.8 0.3 0.4 0.9\n\n1 0.5 0.5 0.2 0.2\n")
    assert labels == pytest.approx(np.array([[1, 0.5, 0.5, 0.2, 0.2], [0, 0.5, 0.55, 0.6, 0.7]], dtype=np.float32))
    assert [len(polygon) for polygon in polygons] == [0, 3]
    assert (polygons[1] == TRIANGLE).all()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("2 0.5 0.5 0.1 0.1", "class 2; the 2 classes are 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "class -1"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 columns; 5 are needed"),
        ("0 0.5 0.5", "3 columns"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "8 columns"),
        ("0 nan 0.5 0.1 0.1", "not finite"),
        ("0 inf 0.5 0.1 0.1", "not finite"),
        ("0 1.7 0.5 0.1 0.1", "coordinate 1.7; coordinates are fractions of the image, 0 to 1"),
        ("0 0.5 -0.5 0.1 0.1", "coordinate -0.5"),
        ("cat 0.5 0.5 0.1 0.1", "not a number"),
    ],
)
def test_wrong_line_is_named_with_the_allowed_values(tmp_path, line, text):
    with pytest.raises(ValueError, match=r"x\.txt:2: ") as caught:
        read(tmp_path, f"0 0.5 0.5 0.2 0.2\n{line}\n")
    assert text in str(caught.value)


@pytest.mark.parametrize("number", ["1.0000001", "-1e-9", "1.05"])
def test_coordinate_just_outside_is_refused(tmp_path, number):
    with pytest.raises(ValueError, match=r"x\.txt:1: coordinate"):
        read(tmp_path, f"0 0.5 0.5 {number} 0.5\n")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (f"{BOX} 0.93", "6 columns; 5 are needed.*a label has no confidence, which --save-conf writes"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.9", "8 columns; 5 are needed.*or a class and a polygon of three points or more"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4 0.4 0.9", "10 columns"),
        ("0", "1 columns"),
        ("0,0.5,0.5,0.1,0.1", "columns are separated by spaces"),
        ("0;0.5;0.5;0.1;0.1", "columns are separated by spaces"),
        ("10 20 30 20 30 40 10 40 plane 0", "not a number"),
        ("0 320 240 64 48", "coordinate 320; coordinates are fractions of the image"),
    ],
)
def test_line_of_another_format_is_refused(tmp_path, line, text):
    with pytest.raises(ValueError, match=rf"x\.txt:1: .*{text}"):
        read(tmp_path, line)


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
def test_polygons_are_no_poses(tmp_path, line):
    assert len(read(tmp_path, line)[1][0]) == (len(line.split()) - 1) // 2


@pytest.mark.parametrize(
    ("num_points", "flags"),
    [(17, (2,)), (17, (1,)), (17, (0, 1)), (4, (2, 1)), (4, (1,)), (6, (1, 0)), (1, (2,)), (2, (2, 2)), (2, (1,))],
)
def test_line_that_can_only_be_a_pose_is_refused_as_one(tmp_path, num_points, flags):
    with pytest.raises(ValueError, match=rf"x\.txt:1: {5 + 3 * num_points} columns are .* and {num_points} keypoints"):
        read(tmp_path, pose(num_points, *flags))


def test_invisible_keypoints_may_be_anywhere(tmp_path):
    with pytest.raises(ValueError, match="4 keypoints"):
        read(tmp_path, f"{BOX} 0 0 0 0.5 0.5 1 0 0 0 0.4 0.6 1")


@pytest.mark.parametrize(("num_points", "flags"), [(17, (2, 0)), (4, (1,)), (4, ()), (1, ()), (17, ())])
def test_kpt_shape_reads_the_box_of_a_pose_only(tmp_path, num_points, flags):
    shape = (num_points, 3 if flags else 2)
    labels, polygons = read(tmp_path, f"{pose(num_points, *flags)}\n1 0.2 0.2 0.1 0.1", shape)
    assert labels == pytest.approx(np.array([[0, 0.5, 0.5, 0.4, 0.4], [1, 0.2, 0.2, 0.1, 0.1]], dtype=np.float32))
    assert [len(polygon) for polygon in polygons] == [0, 0]


def test_kpt_shape_refuses_another_number_of_columns(tmp_path):
    with pytest.raises(ValueError, match=r"13 columns; with kpt_shape \[17, 3\] lines have 56, or 5 without keypoints"):
        read(tmp_path, pose(4), (17, 3))


def test_poses_without_visibility_are_detected_where_all_polygons_agree():
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
        lines = [line.split() for line in label.read_text().splitlines()]
        label.write_text("".join(f"{' '.join(line)} {line[1]} {line[2]} {line[1]} {line[2]}\n" for line in lines))
    return path


def test_split_of_poses_is_a_message_and_kpt_shape_reads_its_boxes(poses):
    index = scan_split(load_dataset(poses), "train")
    assert "train: each polygon looks like a box and 2 keypoints, see" in index.messages[-1]
    assert "write kpt_shape: [2, 2] into the dataset YAML" in index.messages[-1]
    poses.write_text(poses.read_text() + "kpt_shape: [2, 2]\n")
    mended = scan_split(load_dataset(poses), "train")
    assert mended.outlines.is_empty and mended.messages == ()
    assert not np.allclose(mended.labels[0], index.labels[0]), "a cache of other rules was believed"


@pytest.mark.parametrize(
    ("line", "kpt_shape", "expected"),
    [
        ("0 0.5 0.5 0.5 0.5", None, "0 0.5 0.5 0.5 0.5"),
        ("1 0.9 0.5 0.4 0.2", None, "1 0.85 0.5 0.3 0.2"),
        ("1 1.02 0.5 0.2 0.2", None, "1 0.96 0.5 0.08 0.2"),
        ("1 -0.02 0.5 0.2 1.5", None, "1 0.04 0.5 0.08 1"),
        ("1 1.2 0.5 0.2 0.2", None, None),
        ("0 -0.1 0.2 0.8 0.3 0.4 1.1", None, "0 0 0.2 0.8 0.3 0.4 1"),
        ("0 1.1 0.2 1.2 0.3 1.4 0.9", None, None),
        ("0 160 120 40 40", None, None),
        ("2 0.5 0.5 0.5 0.5", None, None),
        ("0 0.5 0.5", None, None),
        ("x", None, None),
        ("0 nan 0.5 0.5 0.5", None, None),
        ("0 0.9 0.5 0.4 0.2 0.3 0.70 0.5 1.5", [2, 2], "0 0.85 0.5 0.3 0.2 0.3 0.70 0.5 1.5"),
    ],
)
def test_line_is_clipped_to_the_part_inside_the_image(line, kpt_shape, expected):
    shape = None if kpt_shape is None else tuple(kpt_shape)
    assert clipped_line(line, 2, shape) == expected
