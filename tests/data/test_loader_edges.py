"""Loaders at their edges: epochs left half way, odd sizes, other settings, and what a rank may not read twice."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from hpc_yolo.data import source as source_module
from hpc_yolo.data.cache import CachedImages
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.images import letterbox, read_image, resize_to, to_chw_rgb
from hpc_yolo.data.loader import TrainingLoader, ValidationLoader
from hpc_yolo.data.samples import TrainingSamples
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.source import ImageFiles
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.spec.hyperparameters import read_hyperparameters
from hpc_yolo.spec.schema import Hyperparameters

IMGSZ = 64
RECIPES = sorted((Path(__file__).parents[2] / "configs" / "hyp").glob("*.yaml"))
STILL = Hyperparameters(mosaic=0, mixup=0, hsv_h=0, hsv_s=0, hsv_v=0, translate=0, scale=0, fliplr=0)
LIVELY = Hyperparameters(mixup=0.3, mosaic=0.8, flipud=0.5, degrees=10, shear=2, perspective=0.0005)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data") / "shapes"
    return scan_split(
        load_dataset(write_shapes_dataset(directory, num_train=10, num_val=1, image_size=(96, 64))), "train"
    )


def make_loader(index, **changes):
    options = {"imgsz": IMGSZ, "batch": 4, "hyp": LIVELY, "seed": 0, "rank": 0, "world_size": 1, "workers": 0}
    return TrainingLoader(index, **{**options, **changes})


def make_samples(index, imgsz, hyp):
    return TrainingSamples(index, ImageFiles(index.paths, imgsz, augment=True), imgsz=imgsz, hyp=hyp, seed=0)


def assert_same_batches(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets, other.targets)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_left_half_way_does_not_leak_into_the_next(index, workers):
    """An early stop or a signal leaves batches on their way in the workers."""
    loader = make_loader(index, workers=workers)
    next(loader.epoch(0))
    assert_same_batches(loader.epoch(5, first_step=1), make_loader(index).epoch(5, first_step=1))
    next(loader.epoch(5))
    assert_same_batches(loader.epoch(6), make_loader(index).epoch(6))


def test_an_epoch_entered_at_its_end_is_empty(index):
    assert list(make_loader(index).epoch(0, first_step=3)) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_larger_than_the_set_repeats_images_alike(index, workers):
    loader = make_loader(index, batch=24, workers=workers)
    (batch,) = loader.epoch(0)
    paths = loader.image_paths(0, 0, 0)
    assert len(batch.images) == len(paths) == 24
    for position in range(10, 24):
        assert paths[position] == paths[position - 10]
        assert torch.equal(batch.images[position], batch.images[position - 10])


def test_without_changes_a_image_comes_as_it_is(index):
    """The no-augmentation recipe: resize, frame, red first, and nothing else."""
    loader = make_loader(index, hyp=STILL)
    for step, batch in enumerate(loader.epoch(0)):
        for position, path in enumerate(loader.image_paths(0, step, 0)):
            image = index.paths.index(str(path))
            resized = resize_to(read_image(index.paths[image]), IMGSZ, augment=True)
            framed, ratio, (left, top) = letterbox(resized, (IMGSZ, IMGSZ))
            assert (batch.images[position].numpy() == to_chw_rgb(framed)).all()
            own = batch.targets[batch.targets[:, 0] == position][:, 1:].numpy()
            expected = index.labels[image].copy()
            expected[:, 1::2] = (expected[:, 1::2] * resized.shape[1] * ratio) / IMGSZ
            expected[:, 2::2] = (expected[:, 2::2] * resized.shape[0] * ratio) / IMGSZ
            expected[:, 1] += left / IMGSZ
            expected[:, 2] += top / IMGSZ
            assert own == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_published_recipe_gives_batches(index, path):
    for batch in make_loader(index, hyp=read_hyperparameters(path)[0]).epoch(0):
        assert batch.images.shape == (4, 3, IMGSZ, IMGSZ)
        assert torch.isfinite(batch.targets).all()
        assert ((batch.targets[:, 2:] >= 0) & (batch.targets[:, 2:] <= 1)).all()


@pytest.mark.parametrize(("field", "axis"), [("flipud", 1), ("fliplr", 2)])
def test_a_certain_flip_mirrors_every_image_and_changes_nothing_else(index, field, axis):
    plain, flipped = (
        make_samples(index, IMGSZ, hyp) for hyp in (STILL, Hyperparameters(**{**as_dict(STILL), field: 1}))
    )
    for image in range(index.num_images):
        assert (np.flip(plain.sample(0, image)[0], axis) == flipped.sample(0, image)[0]).all()


def as_dict(hyp):
    return {name: getattr(hyp, name) for name in hyp.__struct_fields__}


def test_a_mosaic_holds_the_image_itself_at_any_place_and_partners_from_the_whole_set(index, monkeypatch):
    images = make_samples(index, 32, Hyperparameters())
    asked = []
    real = images._source.read
    monkeypatch.setattr(images._source, "read", lambda image: asked.append(image) or real(image))
    for epoch in range(40):
        images.sample(epoch, 7)
    members = np.array(asked).reshape(-1, 4)
    assert (members == 7).any(axis=1).all()
    assert {int(place) for row in members for place in np.nonzero(row == 7)[0]} == {0, 1, 2, 3}
    assert set(members.ravel()) == set(range(10))


def test_a_set_kept_in_memory_is_read_once(index, monkeypatch):
    read = []
    real = source_module.read_image
    monkeypatch.setattr(source_module, "read_image", lambda path: read.append(path) or real(path))
    loader = make_loader(index, in_memory=True)
    assert sorted(read) == sorted(index.paths)
    for epoch in range(2):
        list(loader.epoch(epoch))
    assert len(read) == index.num_images


def test_changes_never_reach_the_images_kept_in_memory(index):
    """Else every epoch would train on the last one's leavings."""
    cached = CachedImages(ImageFiles(index.paths, IMGSZ, augment=True), index.num_images)
    images = TrainingSamples(index, cached, imgsz=IMGSZ, hyp=LIVELY, seed=0)
    before = [pixels.copy() for pixels in cached._images], [rows.copy() for rows in index.labels]
    for epoch in range(3):
        for image in range(index.num_images):
            images.sample(epoch, image)
    for kept, copies in zip((cached._images, index.labels), before, strict=True):
        assert all((one == other).all() for one, other in zip(kept, copies, strict=True))


def test_images_of_any_depth_and_turn_may_share_a_batch(index, tmp_path):
    """Sides of any proportion: wide, tall, square, larger and smaller than the training size."""
    paths, shapes = [], [(100, 40), (40, 100), (64, 64), (20, 20), (300, 299), (10, 90)]
    for number, (height, width) in enumerate(shapes):
        paths.append(str(tmp_path / f"{number}.png"))
        cv2.imwrite(paths[-1], np.zeros((height, width, 3), dtype=np.uint8))
    rows = np.array([[0, 0.5, 0.5, 0.8, 0.8]], dtype=np.float32)
    mixed = replace(index, paths=tuple(paths), shapes_hw=np.array(shapes, dtype=np.int32), labels=(rows,) * len(shapes))
    for hyp in (LIVELY, STILL):
        (batch,) = make_loader(mixed, batch=6, hyp=hyp).epoch(0)
        assert batch.images.shape == (6, 3, IMGSZ, IMGSZ)
    options = {"imgsz": IMGSZ, "batch": 2, "stride": 32, "rank": 0, "world_size": 1, "workers": 0}
    for batch in ValidationLoader(mixed, **options):
        assert batch.images.shape[2] % 32 == batch.images.shape[3] % 32 == 0
        for position, image in enumerate(batch.indices.tolist()):
            assert batch.shapes[position][0] == shapes[image]


@pytest.mark.parametrize("workers", [0, 1])
def test_validation_does_not_depend_on_workers_and_can_be_repeated(index, workers):
    options = {"imgsz": IMGSZ, "batch": 4, "stride": 32, "rank": 0, "world_size": 1}
    loader, plain = ValidationLoader(index, workers=workers, **options), ValidationLoader(index, workers=0, **options)
    for _ in range(2):
        assert_same_batches(loader, plain)


def test_a_rank_without_validation_images_has_no_batches(index):
    """More ranks than images: the evaluator still runs everywhere."""
    options = {"imgsz": IMGSZ, "batch": 4, "stride": 32, "world_size": 16, "workers": 0}
    counts = [sum(len(batch.indices) for batch in ValidationLoader(index, rank=rank, **options)) for rank in range(16)]
    assert counts.count(0) == 6 and counts.count(1) == 10
