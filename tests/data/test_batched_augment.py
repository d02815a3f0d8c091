"""Batches drawn by tensor operations are those that loader workers draw with OpenCV, within stated tolerances."""

import os
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from image_sets import TRIANGLE, index_of, noise_index

from hpc_yolo.data import augment
from hpc_yolo.data.batched_augment import blend, mirrored, recoloured, scaled_layers
from hpc_yolo.data.cache_files import new_memory_cache
from hpc_yolo.data.colours import blend_into, write_rgb
from hpc_yolo.data.decoded import plan_slots
from hpc_yolo.data.loader import TrainingLoader
from hpc_yolo.data.polygons import Outlines
from hpc_yolo.data.undrawn import UndrawnBatch, most_bytes
from hpc_yolo.spec.recipe import Hyperparameters

IMGSZ = 64
CPU = torch.device("cpu")
# Height and width: wide, tall, square, larger and smaller than the training size.
SHAPES = [(60, 120), (40, 120), (128, 128), (100, 50), (120, 40), (64, 64), (20, 30), (300, 200), (30, 100), (99, 33)]
COLOURS_STAY = {"hsv_h": 0, "hsv_s": 0, "hsv_v": 0}
SCALED = {
    "default recipe": {},
    "every second sample is a mosaic": {"mosaic": 0.5},
    "no mosaics": {"mosaic": 0},
    "large scales": {"scale": 0.9, "translate": 0.3},
    "neither scaled nor moved": {"scale": 0, "translate": 0},
    "much other colours": {"hsv_h": 0.5, "hsv_s": 0.9, "hsv_v": 0.9},
    "mirrored": {"flipud": 0.5, "fliplr": 0.5},
    "blended": {"mixup": 0.5},
    "all are blended": {"mixup": 1},
}
WARPED = {
    "rotated": {"degrees": 10, "mosaic": 0.7},
    "sheared and blended": {"shear": 5, "mixup": 0.5},
    "perspective": {"perspective": 0.001, "degrees": 180, "mosaic": 0.7},
}
LOADERS = {
    "one rank": {},
    "second of two ranks": {"rank": 1, "world_size": 2, "batch": 6},
    "workers": {"workers": 2},
    "rectangles": {"rect": True},
    "partners from a window": {"window_partners": True},
    "draws by weight": {"by_weight": True},
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors are small here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Noise images: the neighbours of a pixel have nothing in common with it, so that each position is tested."""
    return noise_index(tmp_path_factory.mktemp("noise"), SHAPES)


def make_loader(index, *, draws, hyp=None, **changes):
    options = {"imgsz": IMGSZ, "batch": 5, "seed": 0, "rank": 0, "world_size": 1, "workers": 0}
    return TrainingLoader(index, hyp=Hyperparameters(**(hyp or {})), draws=draws, **{**options, **changes})


def differences(index, **options):
    """Return the differences of levels of two epochs drawn both ways; targets must be equal to the bit."""
    loaders = [make_loader(index, draws=draws, **options) for draws in (True, False)]
    found = []
    for epoch in (0, 1):
        here, undrawn = (list(loader.epoch(epoch)) for loader in loaders)
        assert len(here) == len(undrawn) > 0
        for batch, other in zip(here, undrawn, strict=True):
            assert isinstance(other, UndrawnBatch)
            assert torch.equal(batch.targets, other.targets)
            images = other.images_on(CPU)
            assert (images.dtype, images.shape) == (torch.uint8, batch.images.shape)
            assert images.is_contiguous(memory_format=torch.channels_last)
            found.append((images.int() - batch.images.int()).abs().flatten())
    return torch.cat(found)


@pytest.mark.parametrize("hyp", SCALED.values(), ids=SCALED.keys())
def test_scaled_and_shifted_samples_are_equal(index, hyp):
    """All is calculated in OpenCV's whole numbers, but for blends and the last step from hue to red, green and blue.

    There fractions may be rounded otherwise, also by OpenCV itself on another processor.
    """
    found = differences(index, hyp=hyp)
    assert found.max() <= 1 and (found > 0).float().mean() < 0.001


@pytest.mark.parametrize("hyp", SCALED.values(), ids=SCALED.keys())
def test_scaled_and_shifted_samples_with_their_own_colours_are_equal_to_the_bit(index, hyp):
    found = differences(index, hyp={**hyp, **COLOURS_STAY})
    assert found.max() <= (1 if "mixup" in hyp else 0)


@pytest.mark.parametrize("hyp", WARPED.values(), ids=WARPED.keys())
def test_warped_samples_are_equal_but_for_one_level_in_a_thousand(index, hyp):
    """Positions are in single precision, and so may differ by a ten-thousandth of a pixel from OpenCV's."""
    found = differences(index, hyp={**hyp, **COLOURS_STAY})
    assert found.max() <= 1 and (found > 0).float().mean() < 0.001
    # The hue of a dark pixel depends on a single level, and a change of it is several levels of a channel.
    found = differences(index, hyp=hyp)
    assert found.max() <= 24 and (found > 0).float().mean() < 0.001


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS.keys())
def test_batches_of_any_loader_are_equal_but_for_rounding(index, loader):
    """Workers pass them through shared memory."""
    hyp = {"mosaic": 0.7, "mixup": 0.3, "flipud": 0.5}
    found = differences(index, hyp=hyp, **loader)
    assert found.max() <= 1 and (found > 0).float().mean() < 0.001


def test_batches_from_a_cache_are_those_from_files(index):
    cache = new_memory_cache(plan_slots(index.shapes_hw, IMGSZ))
    cached, plain = (make_loader(index, draws=False, cache=one) for one in (cache, None))
    for epoch in (0, 1):
        for one, other in zip(cached.epoch(epoch), plain.epoch(epoch), strict=True):
            assert torch.equal(one.images_on(CPU), other.images_on(CPU))
            assert torch.equal(one.targets, other.targets)


def test_copies_of_objects_are_in_the_batch(tmp_path):
    pixels = np.zeros((96, 96, 3), dtype=np.uint8)
    cv2.fillPoly(pixels, [(TRIANGLE * 96).astype(np.int32)], (255, 200, 100))
    paths = [str(tmp_path / f"{number}.png") for number in range(6)]
    for path in paths:
        cv2.imwrite(path, pixels)
    triangles = index_of(paths, [(96, 96)] * 6, [[[0, 0.5, 0.55, 0.6, 0.7]]] * 6)
    triangles = replace(triangles, outlines=Outlines.of([TRIANGLE] * 6))
    assert differences(triangles, hyp={"copy_paste": 1}).max() <= 1
    with_and_without = [list(make_loader(triangles, draws=False, hyp={"copy_paste": part}).epoch(0)) for part in (0, 1)]
    assert sum(len(batch.targets) for batch in with_and_without[1]) > sum(
        len(batch.targets) for batch in with_and_without[0]
    )


def test_damaged_image_is_replaced_by_the_same_one(tmp_path):
    """After other images of its sample have been copied."""
    damaged = noise_index(tmp_path, SHAPES)
    os.truncate(damaged.paths[3], 20)
    loaders = [make_loader(damaged, draws=draws) for draws in (True, False)]
    for batch, other in zip(*(loader.epoch(0) for loader in loaders), strict=True):
        assert torch.equal(batch.targets, other.targets)
        assert batch.replaced == other.replaced
        assert (other.images_on(CPU).int() - batch.images.int()).abs().max() <= 1


def test_epoch_can_be_entered_at_any_step(index):
    whole = list(make_loader(index, draws=False, hyp={"mixup": 0.5}).epoch(2))
    resumed = list(make_loader(index, draws=False, hyp={"mixup": 0.5}).epoch(2, 1))
    for one, other in zip(whole[1:], resumed, strict=True):
        assert torch.equal(one.images_on(CPU), other.images_on(CPU))


@pytest.mark.parametrize("hyp", [*SCALED.values(), *WARPED.values()], ids=[*SCALED, *WARPED])
def test_drawing_asks_the_device_for_no_value(index, hyp):
    """Tensors of this device have none, so that an operation which waits for one raises."""
    for batch in make_loader(index, draws=False, hyp=hyp).epoch(0):
        assert batch.images_on(torch.device("meta")).shape == (5, 3, IMGSZ, IMGSZ)


@pytest.mark.parametrize("hyp", [{"scale": 0.9}, {"scale": 0.9, "mixup": 1}, {"mosaic": 0}, {"degrees": 180}], ids=str)
def test_content_of_a_batch_is_as_large_as_planned_at_most(index, hyp):
    most = most_bytes((IMGSZ, IMGSZ), IMGSZ, Hyperparameters(**hyp))
    for batch in make_loader(index, draws=False, hyp=hyp).epoch(0):
        assert batch.content.numel() <= 5 * most


@pytest.mark.parametrize("source", [(1, 1), (5, 9), (40, 60), (64, 64), (200, 31)], ids=str)
@pytest.mark.parametrize("target", [(64, 64), (1, 1), (7, 63), (20, 50)], ids=str)
def test_part_is_resized_as_by_opencv(source, target):
    """Enlarged and made smaller, to all of the output and to a part of it."""
    pixels = np.random.default_rng(0).integers(0, 256, size=(*source, 3), dtype=np.uint8)
    (height, width), (rows, columns) = source, target
    top, left = 64 - rows, (64 - columns) // 2
    expected = np.full((64, 64, 3), 114, dtype=np.uint8)
    expected[top : top + rows, left : left + columns] = cv2.resize(pixels, (columns, rows))
    parts = torch.zeros(1, 4, 7, dtype=torch.int64)
    parts[0, 1] = torch.tensor([1, width, height, left, left + columns, top, top + rows])
    flat = torch.from_numpy(np.concatenate([[[114] * 3], pixels.reshape(-1, 3)]).astype(np.uint8))
    assert (scaled_layers(parts, flat, (64, 64))[0].numpy() == expected).all()


@pytest.mark.parametrize("gains", [(1, 1, 1), (0.99, 1.5, 0.7), (1.015, 0.3, 1.4)], ids=str)
def test_colours_change_as_by_opencv_within_one_level(gains):
    """Every sixth level of each channel, and the darkest ones, whose hue depends on single levels."""
    levels = np.array([*range(0, 256, 6), 1, 2, 3, 254, 255], dtype=np.uint8)
    pixels = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(len(levels), -1, 3)
    expected = np.empty_like(pixels)
    write_rgb(pixels.copy(), expected, np.empty_like(pixels), gains=np.array(gains))
    tables = torch.from_numpy(augment.hsv_tables(np.array(gains)))[None]
    found = recoloured(torch.from_numpy(pixels)[None], tables)[0].numpy()
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.001


@pytest.mark.parametrize("ratio", [0.0, 0.31, 0.5, 0.77, 1.0])
def test_blend_is_that_of_opencv(ratio):
    first, second = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    expected = first.copy()
    blend_into(expected, second, ratio)
    one, other = (torch.from_numpy(levels)[None, :, :, None] for levels in (first, second))
    found = blend(one, other, torch.tensor([ratio], dtype=torch.float32))[0, :, :, 0].numpy()
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def test_images_are_mirrored_each_by_its_own_flips():
    images = torch.arange(4 * 2 * 3 * 3, dtype=torch.uint8).view(4, 2, 3, 3)
    flips = torch.tensor([(False, False), (True, False), (False, True), (True, True)])
    found = mirrored(images, flips)
    for number, axes in enumerate([(), (0,), (1,), (0, 1)]):
        assert torch.equal(found[number], images[number].flip(axes))
