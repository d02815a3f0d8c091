"""Images that cannot be read any more: the same one replaces each in every process, and it is counted."""

import functools
import os
from pathlib import Path

import numpy as np
import pytest
from image_sets import joined

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.loader import TrainingLoader, ValidationLoader
from hpc_yolo.data.replacement import MAX_REPLACED, ReplacingImages
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.spec.recipe import Hyperparameters

LIVELY = Hyperparameters(mixup=0.5, mosaic=0.7, flipud=0.5, degrees=5)
SINGLE = Hyperparameters(mosaic=0, mixup=0)
OPTIONS = {"imgsz": 64, "batch": 4, "seed": 0, "rank": 0, "world_size": 1, "workers": 0}
DAMAGE = {"cut off": lambda path: os.truncate(path, 100), "gone": lambda path: Path(path).unlink()}


@pytest.fixture
def index(tmp_path):
    path = write_shapes_dataset(tmp_path / "set", num_train=12, num_val=1, image_size=(96, 64))
    return scan_split(load_dataset(path), "train")


def epoch(index, **changes):
    return list(TrainingLoader(index, **{**OPTIONS, "hyp": LIVELY, **changes}).epoch(2))


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        assert (one[0] == other[0]).all() and (one[1] == other[1]).all()


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_image_is_replaced_by_the_next_one_with_its_labels(index, kind):
    before = epoch(index, hyp=SINGLE, batch=1)
    order = [
        index.paths.index(str(path))
        for step in range(12)
        for path in TrainingLoader(index, **{**OPTIONS, "hyp": SINGLE, "batch": 1}).image_paths(2, step, 0)
    ]
    for damaged in (3, 4):
        DAMAGE[kind](index.paths[damaged])
    after = epoch(index, hyp=SINGLE, batch=1)
    for step, image in enumerate(order):
        is_same = np.array_equal(before[step].images, after[step].images)
        assert is_same == (image not in (3, 4))
        assert after[step].replaced == {3: (3, 4), 4: (4,)}.get(image, ())
        if image in (3, 4):
            assert len(after[step].targets) == len(before[order.index(5)].targets), "labels of image 5"


@pytest.mark.parametrize("changes", [{"workers": 2}, {"world_size": 2}, {"world_size": 4, "workers": 1}], ids=str)
def test_replacement_is_the_same_with_any_workers_and_ranks(index, changes):
    """A process knows of a damaged image only from the samples that it makes."""
    for damaged in (0, 5, 11):
        os.truncate(index.paths[damaged], 50)
    whole = joined([epoch(index)])
    shards = [epoch(index, rank=rank, **changes) for rank in range(changes.get("world_size", 1))]
    assert_same(joined(shards), whole)
    assert {image for shard in shards for batch in shard for image in batch.replaced} == {0, 5, 11}


def test_epoch_entered_at_a_step_has_the_same_replacements(index):
    os.truncate(index.paths[7], 50)
    loader = TrainingLoader(index, **OPTIONS, hyp=LIVELY)
    assert_same(joined([list(loader.epoch(2, 1))]), joined([epoch(index)])[1:])


@pytest.mark.parametrize("workers", [0, 1])
def test_split_without_readable_images_is_the_error_of_the_first(index, workers):
    """A file system that is gone: the run ends, as the files may be whole."""
    for path in index.paths:
        Path(path).unlink()
    with pytest.raises(DataError, match=r"\.jpg: cannot be read: No such file"):
        epoch(index, workers=workers)


def test_validation_replaces_images_in_training_only(index):
    os.truncate(index.paths[2], 50)
    options = {"imgsz": 64, "batch": 4, "stride": 32, "rank": 0, "world_size": 1, "workers": 0}
    batches = list(ValidationLoader(index, **options, replaces_unreadable=True))
    assert [batch.replaced for batch in batches if batch.replaced] == [(2,)]
    assert sum(len(batch.indices) for batch in batches) == 12
    with pytest.raises(DataError, match="cannot be decoded"):
        list(ValidationLoader(index, **options))


class Unreadable:
    """A source of which only some images can be read."""

    def __init__(self, readable):
        self.readable = readable

    def read(self, image):
        if image not in self.readable:
            raise DataError(f"{image}")
        return np.full((1, 1, 3), image, dtype=np.uint8)


def read(images, image):
    return int(images.read(images.usable(image))[0, 0, 0])


@pytest.mark.parametrize(("readable", "found"), [({0}, 0), ({3}, 3), ({9}, 9), ({1, 2}, 1)])
def test_next_usable_image_is_used_around_the_end_of_the_split(readable, found):
    images = ReplacingImages(Unreadable(readable), 10)
    for first in (0, 8):
        if (found - first) % 10 <= MAX_REPLACED:
            assert images.make(functools.partial(read, images, first)) == found
        else:
            with pytest.raises(DataError, match=str(first)):
                images.make(functools.partial(read, images, first))
