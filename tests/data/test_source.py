"""Image sources: files, and images kept in memory."""

import cv2
import pytest

from hpc_yolo.core.errors import DataError
from hpc_yolo.data import images
from hpc_yolo.data import source as source_module
from hpc_yolo.data.cache import CachedImages, cache_bytes
from hpc_yolo.data.samples import TrainingSamples
from hpc_yolo.data.source import ImageFiles
from hpc_yolo.spec.recipe import Hyperparameters


@pytest.mark.parametrize(("augment", "method"), [(True, cv2.INTER_LINEAR), (False, cv2.INTER_AREA)])
def test_files_are_read_with_their_longer_side_at_the_size(train_index, augment, method):
    pixels = ImageFiles(train_index.paths, 48, augment=augment).read(3)
    whole = cv2.imread(train_index.paths[3])
    assert (pixels == cv2.resize(whole, (48, 32), interpolation=method)).all()


def test_missing_file_is_named(train_index, tmp_path):
    with pytest.raises(DataError, match=r"gone\.jpg: cannot be read"):
        ImageFiles([str(tmp_path / "gone.jpg")], 64, augment=True).read(0)


def test_cache_reads_every_image_once_and_returns_the_same_pixels(train_index, monkeypatch):
    read: list[str] = []
    real = images.read_image
    monkeypatch.setattr(source_module, "read_image", lambda path: read.append(path) or real(path))
    files = ImageFiles(train_index.paths, 64, augment=True)
    calls = []
    cached = CachedImages(files, train_index.num_images, lambda done, total: calls.append((done, total)))
    assert sorted(read) == sorted(train_index.paths)
    assert calls == [(done, 10) for done in range(1, 11)]
    for image in range(10):
        assert (cached.read(image) == cached.read(image)).all()
    assert len(read) == 10
    assert all((cached.read(image) == files.read(image)).all() for image in range(10))


def test_cached_images_and_labels_are_never_changed(train_index):
    """Otherwise every epoch would train on changes of the last one."""
    hyp = Hyperparameters(mixup=0.3, mosaic=0.8, flipud=0.5, degrees=10, shear=2, perspective=0.0005)
    cached = CachedImages(ImageFiles(train_index.paths, 64, augment=True), train_index.num_images)
    samples = TrainingSamples(train_index, cached, imgsz=64, hyp=hyp, seed=0)
    before = [cached.read(image).copy() for image in range(10)], [labels.copy() for labels in train_index.labels]
    for epoch in range(3):
        for image in range(train_index.num_images):
            samples.sample(epoch, image)
    after = [cached.read(image) for image in range(10)], train_index.labels
    for now, copies in zip(after, before, strict=True):
        assert all((one == other).all() for one, other in zip(now, copies, strict=True))


def test_cache_bytes_are_those_of_the_cached_pixels(train_index):
    cached = CachedImages(ImageFiles(train_index.paths, 64, augment=True), train_index.num_images)
    assert cache_bytes(train_index, 64) == pytest.approx(
        sum(cached.read(image).nbytes for image in range(10)), rel=0.02
    )
