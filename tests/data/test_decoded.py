"""Caches of decoded images: each image is decoded once, with the pixels of its file, and never seen half written."""

import os
import random
import signal

import numpy as np
import pytest

from hpc_yolo.data import images
from hpc_yolo.data import source as source_module
from hpc_yolo.data.cache_files import new_memory_cache
from hpc_yolo.data.decoded import CachedImages, DecodedImages, plan_slots
from hpc_yolo.data.samples import TrainingSamples
from hpc_yolo.data.source import ImageFiles
from hpc_yolo.spec.recipe import Hyperparameters

IMGSZ = 64
ODD_SHAPES = np.array([(64, 64), (1, 640), (640, 1), (48, 96), (96, 64), (33, 77), (1000, 999)], dtype=np.int32)


def cache_of(index, imgsz=IMGSZ, limit_bytes=None):
    return new_memory_cache(plan_slots(index.shapes_hw, imgsz, limit_bytes))


@pytest.fixture
def read(monkeypatch):
    """The paths of the images that were read so far."""
    paths, real = [], images.read_image
    monkeypatch.setattr(source_module, "read_image", lambda path, _: paths.append(path) or real(path))
    return paths


@pytest.mark.parametrize("augment", [True, False])
def test_each_image_is_read_once_and_has_the_pixels_of_its_file(train_index, read, augment):
    files = ImageFiles(train_index, IMGSZ, augment=augment)
    cached = CachedImages(files, cache_of(train_index))
    for _ in range(3):
        found = [cached.read(image).copy() for image in range(10)]
    assert read == list(train_index.paths)
    assert all(np.array_equal(pixels, files.read(image)) for image, pixels in enumerate(found))


def test_images_without_a_slot_are_read_from_their_files(train_index, read):
    whole = plan_slots(train_index.shapes_hw, IMGSZ)
    cache = cache_of(train_index, limit_bytes=int(whole.starts[4]) + 10)
    assert (cache.plan.num_slots, cache.plan.total_bytes) == (4, whole.starts[4])
    cached = CachedImages(ImageFiles(train_index, IMGSZ, augment=True), cache)
    for _ in range(2):
        for image in range(10):
            cached.read(image)
    assert read == [*train_index.paths, *train_index.paths[4:]]
    assert cache.num_written == 4


def test_slots_have_the_sizes_of_resized_images():
    plan = plan_slots(ODD_SHAPES, IMGSZ)
    for (height, width), expected in zip(ODD_SHAPES, plan.shapes_hw.tolist(), strict=True):
        assert images.resized_wh(width, height, IMGSZ)[::-1] == tuple(expected)
    assert (np.diff(plan.starts) >= plan.shapes_hw.prod(axis=1) * 3).all()
    assert plan.starts[0] >= len(ODD_SHAPES)


@pytest.mark.parametrize("limit_bytes", [0, 4095, 4096])
def test_too_small_a_limit_leaves_no_slots(limit_bytes):
    assert plan_slots(ODD_SHAPES, IMGSZ, limit_bytes).num_slots == 0


def test_image_that_has_another_size_than_at_the_scan_is_not_kept(train_index):
    cache = cache_of(train_index)
    cache.put(0, np.zeros((10, 10, 3), dtype=np.uint8))
    assert cache.get(0) is None


def test_full_disk_leaves_the_images_in_their_files(train_index, monkeypatch):
    cache = cache_of(train_index)
    cached = CachedImages(ImageFiles(train_index, IMGSZ, augment=True), cache)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    first = cached.read(0)
    monkeypatch.undo()
    assert np.array_equal(cached.read(0), first)
    assert cache.num_written == 0


def test_cached_images_and_labels_are_never_changed(train_index):
    """Otherwise every epoch would train on changes of the last one."""
    hyp = Hyperparameters(mixup=0.3, mosaic=0.8, flipud=0.5, degrees=10, shear=2, perspective=0.0005)
    cached = CachedImages(ImageFiles(train_index, IMGSZ, augment=True), cache_of(train_index))
    samples = TrainingSamples(train_index, cached, imgsz=IMGSZ, hyp=hyp, seed=0)
    before = [cached.read(image).copy() for image in range(10)], [labels.copy() for labels in train_index.labels]
    for epoch in range(3):
        for image in range(train_index.num_images):
            samples.sample(epoch, image)
    after = [cached.read(image) for image in range(10)], train_index.labels
    for now, copies in zip(after, before, strict=True):
        assert all((one == other).all() for one, other in zip(now, copies, strict=True))
    with pytest.raises(ValueError, match="read-only"):
        cached.read(0)[0] = 0


def fork(work) -> int:
    """Run `work` in a forked process; return its id."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def test_images_are_never_seen_half_written_by_writers_that_are_killed():
    """Two processes write the same images, one of them is killed amid them; a third must see whole ones only."""
    shapes = np.full((12, 2), 700, dtype=np.int32)
    expected = [np.full((700, 700, 3), image + 1, dtype=np.uint8) for image in range(12)]
    draw = random.Random(0)

    def put_all(cache: DecodedImages) -> None:
        for image, pixels in enumerate(expected):
            cache.put(image, pixels)

    def see(cache: DecodedImages) -> int:
        found = {image: pixels for image in range(12) if (pixels := cache.get(image)) is not None}
        assert all(np.array_equal(pixels, expected[image]) for image, pixels in found.items())
        return len(found)

    for _ in range(15):
        cache, killed_after = new_memory_cache(plan_slots(shapes, 700)), draw.randrange(10)
        victim = fork(lambda cache=cache: put_all(cache))
        while see(cache) < killed_after:  # as often as possible
            assert os.waitpid(victim, os.WNOHANG) == (0, 0) or see(cache) == 12
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        writers = {fork(lambda cache=cache: put_all(cache)) for _ in range(2)}
        while writers:
            see(cache)
            writers.discard(os.waitpid(-1, os.WNOHANG)[0])
        assert see(cache) == 12
