"""Training on rectangles: batches of like shapes, the same on every rank, where the original's ranks disagree."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.loader import TrainingLoader
from hpc_yolo.data.sampler import rect_order, rect_plan, steps_per_epoch
from hpc_yolo.spec.schema import Hyperparameters

QUICK = settings(deadline=None, database=None, derandomize=True)
S = 128
SHAPES = [(60, 120), (40, 120), (128, 128), (100, 50), (120, 40), (90, 120), (50, 100), (64, 128), (30, 100), (99, 33)]
STILL = {"hsv_h": 0, "hsv_s": 0, "hsv_v": 0, "translate": 0, "scale": 0, "fliplr": 0, "flipud": 0}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Wide, tall and square images, each with an object over all of it but a tenth on every side."""
    directory = tmp_path_factory.mktemp("rect")
    random = np.random.default_rng(0)
    paths = []
    for number, (height, width) in enumerate(SHAPES):
        paths.append(str(directory / f"{number}.png"))
        cv2.imwrite(paths[-1], random.integers(0, 256, size=(height, width, 3), dtype=np.uint8))
    rows = np.array([[0, 0.5, 0.5, 0.8, 0.8]], dtype=np.float32)
    return ImageIndex(tuple(paths), np.array(SHAPES, dtype=np.int32), (rows,) * len(SHAPES), 0, 0, ())


def make_loader(index, **changes):
    options = {"imgsz": S, "batch": 4, "seed": 0, "rank": 0, "world_size": 1, "workers": 0, "stride": 32, "rect": True}
    options["hyp"] = Hyperparameters(**STILL)
    return TrainingLoader(index, **{**options, **changes})


def batches(index, *, epoch=0, first_step=0, **changes):
    return list(make_loader(index, **changes).epoch(epoch, first_step))


def images_of(index, step, *, epoch=0, rank=0, **changes):
    """Return the images of a batch, by their position in the index."""
    paths = make_loader(index, **changes).image_paths(epoch, step, rank)
    return [index.paths.index(str(path)) for path in paths]


def test_batches_are_as_small_as_holds_their_images_and_come_in_order_of_shape(index):
    found = batches(index)
    plan, shapes = rect_plan(index.shapes_hw, batch=4, imgsz=S, stride=32, pad=0.0)
    assert [tuple(batch.images.shape) for batch in found] == [(4, 3, *shape) for shape in shapes]
    assert min(height * width for height, width in shapes) < S * S
    assert [image for step in range(3) for image in images_of(index, step)][: len(plan)] == plan.tolist()
    aspects = [SHAPES[image][0] / SHAPES[image][1] for image in plan]
    assert aspects == sorted(aspects)


def test_the_order_of_rectangles_stays_from_epoch_to_epoch(index):
    """As published; what is drawn for an image is another each time."""
    hyp = Hyperparameters()
    first, other = batches(index, hyp=hyp), batches(index, hyp=hyp, epoch=1)
    for step, (one, two) in enumerate(zip(first, other, strict=True)):
        assert images_of(index, step) == images_of(index, step, epoch=1)
        assert not torch.equal(one.images, two.images)


def test_the_last_batch_is_filled_with_images_of_its_own_shape(index):
    """The beginning of the order has the widest images, which would be thumbnails in a tall batch."""
    last = batches(index)[-1]
    order = rect_plan(index.shapes_hw, batch=4, imgsz=S, stride=32, pad=0.0)[0]
    assert images_of(index, 2) == [*order[8:], *order[:7:-1]]
    assert last.images.shape[2] > last.images.shape[3]


@QUICK
@given(num_images=st.integers(1, 40), batch=st.integers(1, 60))
def test_a_filled_order_has_whole_batches_and_repeats_turn_by_turn(num_images, batch):
    order = np.random.default_rng(0).permutation(num_images)
    filled = rect_order(order, batch)
    assert len(filled) == steps_per_epoch(num_images, batch) * batch
    assert (filled[:num_images] == order).all()
    counts = np.bincount(filled, minlength=num_images)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(("world_size", "workers"), [(2, 0), (4, 0), (2, 1)])
def test_all_ranks_have_images_of_one_shape_and_together_those_of_one_rank(index, world_size, workers):
    """The original plans per rank, shapes differ, and gathered training hangs or fails."""
    hyp = Hyperparameters(degrees=5, flipud=0.5)
    alone = batches(index, hyp=hyp)
    shares = [batches(index, hyp=hyp, rank=rank, world_size=world_size, workers=workers) for rank in range(world_size)]
    for step, whole in enumerate(alone):
        parts = [share[step] for share in shares]
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        assert torch.equal(torch.cat([part.targets[:, 1:] for part in parts]), whole.targets[:, 1:])


def test_an_epoch_of_rectangles_can_be_entered_anywhere(index):
    later, whole = batches(index, first_step=1), batches(index)
    assert len(later) == len(whole) - 1
    assert all(torch.equal(one.images, two.images) for one, two in zip(later, whole[1:], strict=True))


def test_there_are_no_mosaics_whatever_the_recipe_says(index):
    """One image, one object; a mosaic of these would have parts of four."""
    for batch in batches(index, hyp=Hyperparameters(**STILL, mosaic=1, mixup=1, copy_paste=1)):
        assert torch.bincount(batch.targets[:, 0].long(), minlength=4).tolist() == [1] * 4


def test_an_object_lies_in_its_box_in_a_rectangle(index):
    for step, batch in enumerate(batches(index)):
        height, width = batch.images.shape[2:]
        for position, image in enumerate(images_of(index, step)):
            (row,) = batch.targets[batch.targets[:, 0] == position].tolist()
            file_h, file_w = SHAPES[image]
            ratio = min(height / file_h, width / file_w)
            assert row[2:4] == pytest.approx([0.5, 0.5], abs=0.02)
            assert row[4] * width == pytest.approx(0.8 * file_w * ratio, abs=1.5)
            assert row[5] * height == pytest.approx(0.8 * file_h * ratio, abs=1.5)


def test_sides_are_multiples_of_the_stride_of_the_network(index):
    for batch in batches(index, stride=64):
        assert batch.images.shape[2] % 64 == batch.images.shape[3] % 64 == 0


def test_one_image_fills_a_batch(index):
    alone = replace(index, paths=index.paths[:1], shapes_hw=index.shapes_hw[:1], labels=index.labels[:1])
    (batch,) = batches(alone)
    assert batch.images.shape == (4, 3, 64, 128)
    assert images_of(alone, 0) == [0] * 4
