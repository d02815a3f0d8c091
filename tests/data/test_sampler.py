"""Orders, shards and sizes: pure functions of (seed, epoch, step) for any number of images, ranks and batches."""

import numpy as np
import pytest
from golden import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_yolo.data.flat import FlatLabels
from hpc_yolo.data.sampler import (
    ORDER_STREAM,
    SAMPLE_STREAM,
    WINDOW,
    epoch_order,
    generator,
    global_batch,
    image_weights,
    largest_imgsz,
    rank_shard,
    rect_order,
    rect_plan,
    scaled_imgsz,
    steps_per_epoch,
    windows,
)

QUICK = settings(deadline=None, database=None, derandomize=True)
COUNTS = st.integers(1, 60)


@QUICK
@given(num_images=COUNTS, batch=COUNTS, seed=st.integers(0, 2**63), epoch=st.integers(0, 10_000))
def test_epoch_has_every_image_and_repeats_only_to_fill_the_last_batch(num_images, batch, seed, epoch):
    order = epoch_order(num_images, seed, epoch)
    steps = steps_per_epoch(num_images, batch)
    seen = np.concatenate([global_batch(order, batch, step) for step in range(steps)])
    assert len(seen) == steps * batch
    assert seen[:num_images].tolist() == order.tolist()
    assert sorted(order) == list(range(num_images))
    assert len(seen) - num_images < batch
    counts = np.bincount(seen, minlength=num_images)
    assert counts.max() - counts.min() <= 1, "filled from the beginning of the order, turn by turn"


@QUICK
@given(size=st.integers(1, 8), world_size=st.integers(1, 12))
def test_ranks_split_a_batch_evenly_and_in_order(size, world_size):
    images = np.arange(size * world_size) * 3
    shards = [rank_shard(images, rank, world_size) for rank in range(world_size)]
    assert {len(part) for part in shards} == {size}
    assert np.concatenate(shards).tolist() == images.tolist()


def test_last_batch_is_filled_from_the_beginning_of_the_order():
    order = epoch_order(10, seed=3, epoch=5)
    assert sorted(order) == list(range(10))
    assert steps_per_epoch(10, 4) == 3
    batches = [global_batch(order, 4, step) for step in range(3)]
    assert np.concatenate(batches).tolist() == [*order, *order[:2]]
    shards = [rank_shard(batches[0], rank, 2) for rank in range(2)]
    assert np.concatenate(shards).tolist() == batches[0].tolist()
    assert global_batch(epoch_order(3, 0, 0), 8, 0).shape == (8,), "more images a step than there are"


def test_draws_of_a_sample_never_change():
    """A run that is resumed with a later version must go on with the order and the changes that it began with."""
    assert epoch_order(8, 0, 0).tolist() == [5, 0, 6, 1, 7, 2, 4, 3]
    drawn = generator(7, 3, 11, SAMPLE_STREAM).integers(1000, size=4)
    assert drawn.tolist() == [814, 501, 848, 981]


@pytest.mark.parametrize("other", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 2**20, 0, 1)], ids=str)
def test_seed_epoch_image_and_stream_each_change_the_draws(other):
    first, second = generator(0, 0, 0, 0).random(4), generator(*other).random(4)
    assert not np.isin(first, second).any()


def test_keys_do_not_collide():
    """Keys are packed into two words; a key that runs over into its neighbour would repeat another sample's changes."""
    keys = [
        (seed, epoch, index, stream)
        for seed in (0, 1, 2**31, 2**62)
        for epoch in (0, 1, 299, 100_000)
        for index in (0, 1, 2**20, 2**39, 2**39 + 1, 2**40 - 1)
        for stream in (ORDER_STREAM, SAMPLE_STREAM)
    ]
    assert len({generator(*key).random() for key in keys}) == len(keys)


def test_images_are_at_each_position_equally_often():
    """4 sigma of a binomial."""
    num_images, num_epochs = 5, 2000
    orders = np.array([epoch_order(num_images, 3, epoch) for epoch in range(num_epochs)])
    fraction = 1 / num_images
    sigma = np.sqrt(num_epochs * fraction * (1 - fraction))
    for position in range(num_images):
        counts = np.bincount(orders[:, position], minlength=num_images)
        assert abs(counts - num_epochs * fraction).max() < 4 * sigma


def test_weights_prefer_classes_that_are_rare_or_have_a_low_map():
    """Counts 3 and 1: weights 1/3 and 1 before any evaluation; a class that is found perfectly draws nothing."""
    rows = [[[0] * 5] * 2, [[0] * 5], [[1] * 5], []]
    labels = FlatLabels.of(np.array(of_image, dtype=np.float32).reshape(-1, 5) for of_image in rows)
    fresh = image_weights(labels, np.zeros(2))
    assert fresh / fresh[1] == pytest.approx([2, 1, 3, 0])
    assert image_weights(labels, np.array([1.0, 0.5])).tolist() == pytest.approx([0, 0, 0.75 * 0.25, 0])
    order = np.concatenate([epoch_order(4, 0, epoch, fresh) for epoch in range(3000)])
    fractions = np.bincount(order, minlength=4) / len(order)
    assert fractions == pytest.approx([1 / 3, 1 / 6, 1 / 2, 0], abs=5 * 0.5 / len(order) ** 0.5)
    assert sorted(epoch_order(4, 0, 0, np.zeros(4))) == [0, 1, 2, 3], "where nothing is left to gain, all come"


@pytest.mark.parametrize("case", GOLDEN["rect_golden"]["cases"], ids=lambda case: f"{case['batch']}-{case['pad']}")
def test_rectangles_are_planned_as_published(case):
    shapes_hw = np.array(GOLDEN["rect_golden"]["wh"], dtype=np.int32)[:, ::-1]
    options = {"batch": case["batch"], "imgsz": case["img_size"], "stride": case["stride"], "pad": case["pad"]}
    order, shapes = rect_plan(shapes_hw, **options)
    aspects = shapes_hw[:, 0] / shapes_hw[:, 1]
    assert aspects[order].tolist() == aspects[case["order"]].tolist(), "equal aspects may stand in any order"
    assert [list(shape) for shape in shapes] == case["batch_shapes_hw"]


@QUICK
@given(
    sizes=st.lists(st.tuples(st.integers(10, 2000), st.integers(10, 2000)), min_size=1, max_size=40),
    batch=st.integers(1, 9),
    imgsz=st.sampled_from([64, 320, 640]),
    stride=st.sampled_from([32, 64]),
    pad=st.sampled_from([0.0, 0.5]),
)
def test_images_fit_the_rectangle_of_their_group(sizes, batch, imgsz, stride, pad):
    shapes_hw = np.array(sizes, dtype=np.int32)
    order, shapes = rect_plan(shapes_hw, batch=batch, imgsz=imgsz, stride=stride, pad=pad)
    assert sorted(order) == list(range(len(sizes)))
    assert len(shapes) == steps_per_epoch(len(sizes), batch)
    for number, (height, width) in enumerate(shapes):
        assert height % stride == width % stride == 0
        assert max(height, width) <= imgsz + 2 * stride
        for image_h, image_w in shapes_hw[order[number * batch : (number + 1) * batch]]:
            ratio = imgsz / max(image_h, image_w)
            assert image_h * ratio <= height + 1e-6 and image_w * ratio <= width + 1e-6


@QUICK
@given(num_images=st.integers(1, 40), batch=st.integers(1, 60))
def test_rect_order_has_whole_batches_and_repeats_evenly(num_images, batch):
    order = np.random.default_rng(0).permutation(num_images)
    filled = rect_order(order, batch)
    assert len(filled) == steps_per_epoch(num_images, batch) * batch
    assert (filled[:num_images] == order).all()
    counts = np.bincount(filled, minlength=num_images)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(("imgsz", "stride"), [(32, 32), (64, 64), (96, 32), (640, 32), (1280, 64)])
def test_multi_scale_sizes_reach_both_ends_of_their_range(imgsz, stride):
    """Half of the smallest image is less than one stride, and an image of no pixels cannot be learned from."""
    sizes = {scaled_imgsz(0, 0, step, imgsz, stride) for step in range(500)}
    assert min(sizes) == max(imgsz // 2 // stride * stride, stride)
    assert max(sizes) == largest_imgsz(imgsz, stride)


def test_multi_scale_sizes_are_uniform():
    sizes = np.array([scaled_imgsz(0, epoch, step, 640, 32) for epoch in range(40) for step in range(100)])
    assert (sizes % 32 == 0).all() and sizes.min() == 320 and sizes.max() == 960
    fractions = np.bincount(sizes // 32, minlength=31)[10:] / len(sizes)
    expected = np.full(21, 32 / 672)
    assert fractions == pytest.approx(expected, abs=5 * (expected[0] / len(sizes)) ** 0.5)


def test_window_is_what_came_before_and_begins_with_the_end_of_the_order():
    order = np.random.default_rng(0).permutation(40)
    found = windows(order, np.array([0, 20, 39]))
    assert found[0].tolist() == order[::-1][:WINDOW].tolist()
    assert found[1].tolist() == order[20 - WINDOW : 20][::-1].tolist()
    assert found[2].tolist() == order[39 - WINDOW : 39][::-1].tolist()
    assert set(windows(np.arange(3), np.array([1]))[0].tolist()) == {0, 1, 2}, "fewer images than a window has"
