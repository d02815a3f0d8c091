"""Names of label files, and files that were probably meant as one; see also `test_yolo.py`."""

from pathlib import Path

import pytest

from hpc_yolo.data.formats.yolo_files import label_path


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/d/images/train/a.jpg", "/d/labels/train/a.txt"),
        ("images/a.b.jpg", "labels/a.b.txt"),
        ("/d/train/images/a.png", "/d/train/labels/a.txt"),
        ("/d/images2/a.png", "/d/images2/a.txt"),
        ("/d/images/images/a.png", "/d/images/labels/a.txt"),
        ("/d/a.png", "/d/a.txt"),
        ("/a/images.jpg", "/a/images.txt"),
        ("/images/a/images/train/x.jpg", "/images/a/labels/train/x.txt"),
    ],
)
def test_last_directory_named_images_becomes_labels(image, label):
    assert label_path(Path(image)) == Path(label)
