"""Datasets for tests of the data path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from image_sets import add, make_set

from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.synth import write_shapes_dataset


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A dataset with one labelled image, images/train/good.jpg, and d.yaml; tests add to it."""
    root = make_set(tmp_path / "set")
    add(root, "good.jpg")
    return root


@pytest.fixture
def write_yaml(tmp_path: Path) -> Callable[[str], Path]:
    """A function that writes d.yaml, beside one empty directory named p."""
    (tmp_path / "p").mkdir()

    def write(text: str) -> Path:
        path = tmp_path / "d.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def shapes_directory(tmp_path: Path) -> Path:
    """A drawn set of four training images and one for validation, which a test may change."""
    return write_shapes_dataset(tmp_path / "set", num_train=4, num_val=1, image_size=(96, 64)).parent


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageIndex, ImageIndex]:
    """The indexes of a drawn set of ten training and seven validation images of 96 x 64 pixels."""
    directory = tmp_path_factory.mktemp("data") / "shapes"
    dataset = load_dataset(write_shapes_dataset(directory, num_train=10, num_val=7, image_size=(96, 64)))
    return scan_split(dataset, "train"), scan_split(dataset, "val")


@pytest.fixture(scope="session")
def train_index(shapes: tuple[ImageIndex, ImageIndex]) -> ImageIndex:
    """The training images of `shapes`."""
    return shapes[0]
