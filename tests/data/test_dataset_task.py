"""Keys of a dataset YAML that say that its labels are for another task."""

import pytest

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.dataset import load_dataset

SPLITS = "train: p\nval: p\nnames: [a]\n"


@pytest.mark.parametrize(
    ("text", "shape", "expected"),
    [
        ("kpt_shape: [17, 3]\n", (17, 3), "keypoints are not"),
        ("kpt_shape: [4, 2]\nflip_idx: [0, 1, 2, 3]\ntask: pose\n", (4, 2), "keypoints are not"),
        ("task: obb\n", None, "angles are not"),
        ("task: detect\n", None, None),
        ("task: segment\n", None, None),
    ],
)
def test_labels_of_another_task_are_a_message(write_yaml, text, shape, expected):
    dataset = load_dataset(write_yaml(SPLITS + text))
    assert dataset.kpt_shape == shape
    assert [expected in message for message in dataset.messages] == ([True] if expected else [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("task: pose\n", "task: pose is for labels with keypoints, and kpt_shape: is missing"),
        ("flip_idx: [0, 2, 1]\n", "flip_idx: is for labels with keypoints"),
        ("kpt_shape: 17\n", "kpt_shape: '17' is not a pair"),
        ("kpt_shape: [17]\n", "kpt_shape: .* is not a pair"),
        ("kpt_shape: [a, 3]\n", "kpt_shape: .* is not a pair"),
        ("kpt_shape: [17, 4]\n", r"kpt_shape: \[17, 4\]: 2 or 3 numbers each"),
        ("kpt_shape: [0, 3]\n", r"kpt_shape: \[0, 3\]"),
        ("task: classify\n", "task: classify: labels without boxes"),
    ],
)
def test_keys_of_labels_without_boxes_are_refused(write_yaml, text, expected):
    with pytest.raises(DataError, match=expected):
        load_dataset(write_yaml(SPLITS + text))
