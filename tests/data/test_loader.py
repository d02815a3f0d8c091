"""Loaders: batches are a function of (seed, epoch, step) for any ranks and workers (design decision 1)."""

import gc
import os
import signal
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from image_sets import STILL, add, encoded, index_of, joined, members_of, noise_index, scan
from waiting import PATIENCE_S, wait_until

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.heap import keep_freed_memory
from hpc_yolo.data import source as source_module
from hpc_yolo.data.batch_memory import PREFETCH
from hpc_yolo.data.cache_files import new_memory_cache
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.decoded import plan_slots
from hpc_yolo.data.images import letterbox, read_image, resize_to, resized_wh, to_chw_rgb
from hpc_yolo.data.loader import TrainingLoader, ValidationLoader
from hpc_yolo.data.sampler import WINDOW, epoch_order, rect_plan
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.shards import ShardPlan
from hpc_yolo.evaluation.evaluator import to_original_pixels
from hpc_yolo.spec.hyperparameters import read_hyperparameters
from hpc_yolo.spec.recipe import Hyperparameters

IMGSZ = 64
S = 128
RECIPES = sorted((Path(__file__).parents[2] / "configs" / "hyp").glob("*.yaml"))
UNCHANGED = Hyperparameters(**STILL, mosaic=0, mixup=0)
LIVELY = Hyperparameters(mixup=0.5, mosaic=0.7, flipud=0.5, degrees=5, shear=2, perspective=0.0005)
# Height and width of wide, tall and square images.
SHAPES = [(60, 120), (40, 120), (128, 128), (100, 50), (120, 40), (90, 120), (50, 100), (64, 128), (30, 100), (99, 33)]


def make_loader(index, **changes):
    options = {"imgsz": IMGSZ, "batch": 4, "hyp": LIVELY, "seed": 0, "rank": 0, "world_size": 1, "workers": 0}
    return TrainingLoader(index, **{**options, **changes})


def make_validation_loader(index, **changes):
    options = {"imgsz": IMGSZ, "batch": 4, "stride": 32, "rank": 0, "world_size": 1, "workers": 0}
    return ValidationLoader(index, **{**options, **changes})


def epoch_of(index, epoch=0, first_step=0, **changes):
    return list(make_loader(index, **changes).epoch(epoch, first_step))


def images_of(index, step, *, epoch=0, rank=0, **changes):
    """Return the images of a shard, by their position in the index."""
    paths = make_loader(index, **changes).image_paths(epoch, step, rank)
    return [index.paths.index(str(path)) for path in paths]


def assert_same(first, second):
    """Check that two lists of batches, or of (images, targets), are equal to the bit."""
    first, second = list(first), list(second)
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        pairs = zip(as_pair(one), as_pair(other), strict=True)
        assert all(torch.equal(left, right) for left, right in pairs)


def as_pair(batch):
    return batch if isinstance(batch, tuple) else (batch.images, batch.targets)


@pytest.mark.parametrize(
    ("world_size", "workers", "is_cached"),
    [(1, 2, False), (2, 0, False), (4, 0, False), (2, 1, False), (1, 0, True), (2, 2, True)],
)
def test_ranks_workers_and_cache_do_not_change_batches(train_index, world_size, workers, is_cached):
    cache = new_memory_cache(plan_slots(train_index.shapes_hw, IMGSZ)) if is_cached else None
    options = {"world_size": world_size, "workers": workers, "cache": cache}
    shards = [epoch_of(train_index, 3, rank=rank, **options) for rank in range(world_size)]
    assert_same(joined(shards), joined([epoch_of(train_index, 3)]))


def test_epoch_can_be_entered_at_any_step(train_index):
    assert_same(epoch_of(train_index, first_step=1), epoch_of(train_index)[1:])
    assert epoch_of(train_index, first_step=3) == []


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The index of 40 noise images of 64 x 64, more than two windows of partners."""
    return noise_index(tmp_path_factory.mktemp("many"), [(64, 64)] * 40)


@pytest.mark.parametrize(("world_size", "workers", "batch"), [(1, 2, 8), (2, 0, 8), (4, 1, 8), (1, 0, 2), (1, 0, 20)])
def test_window_partners_depend_on_neither_ranks_nor_workers_nor_batch(many, world_size, workers, batch):
    options = {"window_partners": True, "batch": batch, "workers": workers, "world_size": world_size}
    batches = joined([epoch_of(many, 3, rank=rank, **options) for rank in range(world_size)])
    plain = joined([epoch_of(many, 3, window_partners=True, batch=8)])
    assert torch.equal(*(torch.cat([images for images, _ in one]) for one in (batches, plain)))
    assert_same(
        epoch_of(many, 3, 2, window_partners=True, batch=8), epoch_of(many, 3, window_partners=True, batch=8)[2:]
    )


def test_window_partners_of_a_mosaic_are_those_before_it(many, monkeypatch):
    loader = make_loader(many, window_partners=True, batch=8, hyp=Hyperparameters(mosaic=1, mixup=0))
    members = members_of(loader._samples, monkeypatch)
    list(loader.epoch(0))
    order = epoch_order(40, 0, 0).tolist()
    distances = []
    for position, mosaic in enumerate(np.array(members).reshape(-1, 4).tolist()):
        mosaic.remove(order[position])
        distances += [(position - order.index(image)) % 40 for image in mosaic]
    assert set(distances) == set(range(1, WINDOW + 1))


def test_window_partners_are_decoded_once(many, monkeypatch):
    """But for those before the first image, which come again at the end of the epoch."""
    read: list[str] = []
    monkeypatch.setattr(source_module, "read_image", lambda path, _: read.append(path) or read_image(path))
    list(make_loader(many, window_partners=True, batch=8, hyp=LIVELY).epoch(0))
    assert len(read) <= 40 + WINDOW
    read.clear()
    list(make_loader(many, batch=8, hyp=LIVELY).epoch(0))
    assert len(read) > 2 * 40


def test_samples_of_window_partners_are_those_of_the_first_batch(many):
    loader = make_loader(many, window_partners=True)
    (batch, *_) = loader.epoch(0)
    for position, (pixels, _) in enumerate(loader.samples(4)):
        assert (batch.images[position].numpy() == pixels).all()


@pytest.mark.parametrize("changes", [{"epoch": 1}, {"seed": 1}])
def test_another_epoch_or_seed_gives_another_order_and_other_images(train_index, changes):
    orders = [epoch_order(10, **{"seed": 0, "epoch": 0, **more}).tolist() for more in ({}, changes)]
    assert orders[0] != orders[1]
    assert not torch.equal(epoch_of(train_index)[0].images, epoch_of(train_index, **changes)[0].images)


def test_loader_serves_many_epochs(train_index):
    loader = make_loader(train_index, workers=1)
    for epoch in (0, 1):
        batches = list(loader.epoch(epoch))
        assert len(batches) == len(loader) == 3
        assert_same(batches, epoch_of(train_index, epoch))


@pytest.mark.parametrize("workers", [0, 2])
def test_unfinished_epoch_does_not_leak_into_the_next(train_index, workers):
    """An early stop or a signal leaves batches on their way in the workers."""
    loader = make_loader(train_index, workers=workers)
    next(loader.epoch(0))
    assert_same(loader.epoch(5, first_step=1), epoch_of(train_index, 5, 1))
    next(loader.epoch(5))
    assert_same(loader.epoch(6), epoch_of(train_index, 6))


@pytest.mark.parametrize("hyp", [LIVELY, *(read_hyperparameters(path)[0] for path in RECIPES)])
def test_batches_of_every_recipe_have_the_documented_form(train_index, hyp):
    for batch in epoch_of(train_index, hyp=hyp):
        assert (batch.images.dtype, batch.images.shape) == (torch.uint8, (4, 3, IMGSZ, IMGSZ))
        assert batch.targets.dtype == torch.float32
        assert batch.targets[:, 0].max() < 4
        assert ((batch.targets[:, 2:] >= 0) & (batch.targets[:, 2:] <= 1)).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_batch_larger_than_the_set_repeats_images_unchanged(train_index, workers):
    (batch,) = epoch_of(train_index, batch=24, workers=workers)
    images = images_of(train_index, 0, batch=24)
    assert len(batch.images) == len(images) == 24
    for position in range(10, 24):
        assert images[position] == images[position - 10]
        assert torch.equal(batch.images[position], batch.images[position - 10])


def test_draws_by_weight_change_each_repetition_of_an_image(train_index):
    """Rare classes are drawn several times an epoch; what is found perfectly is never drawn."""
    loader = make_loader(train_index, by_weight=True)
    maps = [1.0, 1.0, 1.0, 0.0]
    drawn = [image for step in range(3) for image in loader.image_paths(0, step, 0, maps)]
    assert len(set(drawn)) < len(drawn)
    assert all((train_index.labels[train_index.paths.index(str(path))][:, 0] == 3).any() for path in drawn)
    images = torch.cat([batch.images for batch in loader.epoch(0, class_maps=maps)])
    first = drawn.index(max(drawn, key=drawn.count))
    again = drawn.index(drawn[first], first + 1)
    assert not torch.equal(images[first], images[again])
    assert len(list(loader.epoch(0))) == 3, "before the first evaluation"


def test_samples_are_those_of_the_first_batch(train_index):
    loader = make_loader(train_index)
    (batch, *_) = loader.epoch(0)
    for position, (pixels, labels) in enumerate(loader.samples(3)):
        assert (batch.images[position].numpy() == pixels).all()
        assert (batch.targets[batch.targets[:, 0] == position][:, 1:].numpy() == labels).all()


def test_image_without_augmentation_is_resized_and_padded_only(train_index):
    loader = make_loader(train_index, hyp=UNCHANGED)
    for step, batch in enumerate(loader.epoch(0)):
        for position, image in enumerate(images_of(train_index, step)):
            resized = resize_to(read_image(train_index.paths[image]), resized_wh(96, 64, IMGSZ), augment=True)
            framed, ratio, (left, top) = letterbox(resized, (IMGSZ, IMGSZ))
            assert (batch.images[position].numpy() == to_chw_rgb(framed)).all()
            own = batch.targets[batch.targets[:, 0] == position][:, 1:].numpy()
            expected = train_index.labels[image].copy()
            expected[:, 1::2] = (expected[:, 1::2] * resized.shape[1] * ratio) / IMGSZ
            expected[:, 2::2] = (expected[:, 2::2] * resized.shape[0] * ratio) / IMGSZ
            expected[:, 1] += left / IMGSZ
            expected[:, 2] += top / IMGSZ
            assert own == pytest.approx(expected, abs=1e-4)


def test_images_of_any_proportion_are_in_one_batch(tmp_path):
    """Wide, tall, square, larger and smaller than the training size."""
    shapes = [(100, 40), (40, 100), (64, 64), (20, 20), (300, 299), (10, 90)]
    mixed = noise_index(tmp_path, shapes)
    for hyp in (LIVELY, UNCHANGED):
        (batch,) = epoch_of(mixed, batch=6, hyp=hyp)
        assert batch.images.shape == (6, 3, IMGSZ, IMGSZ)
    for batch in make_validation_loader(mixed, batch=2):
        assert batch.images.shape[2] % 32 == batch.images.shape[3] % 32 == 0
        for position, image in enumerate(batch.indices.tolist()):
            assert batch.shapes[position][0] == shapes[image]


@pytest.mark.parametrize("shape", [(10, 1000), (1000, 10)], ids=["wide", "tall"])
def test_sliver_keeps_a_pixel_of_width(directory, shape):
    """10 x 1000 pixels at size 64 come to 0.64 of a pixel."""
    add(directory, "sliver.png", encoded(".png", np.zeros((*shape, 3), dtype=np.uint8)))
    index = scan(directory)
    for hyp in (Hyperparameters(), Hyperparameters(mosaic=0)):
        (batch,) = epoch_of(index, hyp=hyp, batch=2)
        assert batch.images.shape == (2, 3, 64, 64)
    assert sum(len(batch.indices) for batch in make_validation_loader(index, batch=2)) == 2


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 9])
def test_every_validation_image_is_on_one_rank(shapes, world_size):
    loaders = [make_validation_loader(shapes[1], rank=rank, world_size=world_size) for rank in range(world_size)]
    shards = [list(loader) for loader in loaders]
    seen = [int(image) for shard in shards for batch in shard for image in batch.indices]
    assert sorted(seen) == list(range(7))
    counts = [sum(len(batch.indices) for batch in shard) for shard in shards]
    assert max(counts) - min(counts) <= 1
    found = {tuple(batch.images.shape[2:]) for shard in shards for batch in shard}
    assert found == {tuple(batch.images.shape[2:]) for batch in make_validation_loader(shapes[1])}
    slots = [[None if batch is None else len(batch.indices) for batch in loader.slots()] for loader in loaders]
    assert {len(of_rank) for of_rank in slots} == {2}, "as many on every rank"
    assert [[count for count in of_rank if count] for of_rank in slots] == [
        [len(batch.indices) for batch in shard] for shard in shards
    ]


def test_rank_without_validation_images_has_no_batches(train_index):
    """More ranks than images: the evaluator runs on all of them."""
    loaders = [make_validation_loader(train_index, rank=rank, world_size=16) for rank in range(16)]
    counts = [sum(len(batch.indices) for batch in loader) for loader in loaders]
    assert counts.count(0) == 6 and counts.count(1) == 10


@pytest.mark.parametrize(("workers", "is_cached"), [(0, False), (1, False), (1, True)])
def test_validation_does_not_depend_on_workers_and_cache_and_can_be_repeated(train_index, workers, is_cached):
    cache = new_memory_cache(plan_slots(train_index.shapes_hw, IMGSZ)) if is_cached else None
    loader = make_validation_loader(train_index, workers=workers, cache=cache)
    plain = make_validation_loader(train_index)
    for _ in range(2):
        assert_same(loader, plain)


def test_square_validation_pads_every_image_to_a_square(train_index):
    assert {tuple(batch.images.shape[2:]) for batch in make_validation_loader(train_index, square=True)} == {(64, 64)}


def test_validation_boxes_lead_back_to_the_file(shapes):
    for batch in make_validation_loader(shapes[1]):
        height, width = batch.images.shape[2:]
        for position, image in enumerate(batch.indices.tolist()):
            own = batch.targets[batch.targets[:, 0] == position][:, 2:]
            half = own[:, 2:] / 2
            boxes = torch.cat((own[:, :2] - half, own[:, :2] + half), dim=1) * torch.tensor([width, height] * 2)
            back = to_original_pixels(boxes, batch.shapes[position])
            labels = torch.from_numpy(shapes[1].labels[image])
            expected = torch.cat((labels[:, 1:3] - labels[:, 3:] / 2, labels[:, 1:3] + labels[:, 3:] / 2), dim=1)
            assert torch.allclose(back, expected * torch.tensor([96, 64, 96, 64]), atol=0.5)


def test_workers_do_not_inherit_memory_that_their_task_has_freed(train_index):
    """A worker that is forked between two steps would keep a copy of the memory of activations: gigabytes."""
    keep_freed_memory()
    blocks = [np.ones(1 << 20, dtype=np.uint8) for _ in range(64)]
    del blocks
    before_mb = resident_mb()
    loader = make_validation_loader(train_index, workers=1)
    loader.begin()
    assert before_mb - resident_mb() > 48


def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / (1 << 20)


def test_workers_do_not_inherit_the_signals_of_their_task(train_index):
    """A worker that ignores SIGTERM keeps a finished job alive."""
    before = signal.signal(signal.SIGTERM, lambda *_: None), signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        loader = make_loader(train_index, workers=1)
        batches = loader.epoch(0)
        next(batches)
        (worker,) = loader._loader._iterator._workers
        status = dict(
            line.split(":\t") for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines() if ":\t" in line
        )
        caught, ignored = int(status["SigCgt"], 16), int(status["SigIgn"], 16)
        assert not caught >> (signal.SIGTERM - 1) & 1
        assert not ignored >> (signal.SIGTERM - 1) & 1
        assert ignored >> (signal.SIGUSR2 - 1) & 1
        assert ignored >> (signal.SIGINT - 1) & 1
        list(batches)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGUSR2, before[1])


@pytest.mark.parametrize("workers", [0, 1])
def test_missing_image_is_named(shapes_directory, workers):
    index = scan_split(load_dataset(shapes_directory / "dataset.yaml"), "train")
    for image in (shapes_directory / "images" / "train").iterdir():
        image.unlink()
    with pytest.raises(DataError, match=r"\.jpg: cannot be read"):
        epoch_of(index, workers=workers)


@pytest.mark.parametrize("kind", ["training", "validation"])
def test_error_in_a_worker_reads_as_without_workers(directory, kind):
    """torch buries what a worker raises in a page of traceback, and loses the hint."""
    index = scan(directory)
    os.truncate(index.paths[0], 200)
    messages = []
    for workers in (0, 1):
        if kind == "training":
            batches = make_loader(index, hyp=Hyperparameters(mosaic=0), workers=workers).epoch(0)
        else:
            batches = iter(make_validation_loader(index, workers=workers))
        with pytest.raises(DataError) as caught:
            next(batches)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert len(messages[1].splitlines()) == 1


def test_workers_end_with_their_loader_after_an_error(shapes_directory):
    """An error that held its own frame would keep workers alive until a collection, and that for five seconds more."""
    index = scan_split(load_dataset(shapes_directory / "dataset.yaml"), "train")
    for path in index.paths:
        os.truncate(path, 100)
    loader = make_loader(index, workers=1)
    batches = loader.epoch(0)
    (worker,) = loader._loader._iterator._workers
    gc.disable()
    try:
        try:
            next(batches)
        except DataError:
            lost = True
        del batches, loader
        worker.join(timeout=PATIENCE_S)
        assert lost and worker.exitcode == 0
    finally:
        gc.enable()


@pytest.fixture(scope="module")
def odd_index(tmp_path_factory):
    """The index of images of `SHAPES`."""
    return noise_index(tmp_path_factory.mktemp("rect"), SHAPES)


RECT = {"imgsz": S, "rect": True, "hyp": Hyperparameters(**STILL)}


def rect_epoch(index, epoch=0, first_step=0, **changes):
    return epoch_of(index, epoch, first_step, **{**RECT, **changes})


def test_rect_batches_are_as_small_as_holds_their_images_and_in_order_of_shape(odd_index):
    found = rect_epoch(odd_index)
    plan, shapes = rect_plan(odd_index.shapes_hw, batch=4, imgsz=S, stride=32, pad=0.0)
    assert [tuple(batch.images.shape) for batch in found] == [(4, 3, *shape) for shape in shapes]
    assert min(height * width for height, width in shapes) < S * S
    assert [image for step in range(3) for image in images_of(odd_index, step, **RECT)][: len(plan)] == plan.tolist()
    aspects = [SHAPES[image][0] / SHAPES[image][1] for image in plan]
    assert aspects == sorted(aspects)


def test_rect_order_is_the_same_in_every_epoch(odd_index):
    """As published; the changes of an image differ each time."""
    hyp = Hyperparameters()
    first, other = rect_epoch(odd_index, hyp=hyp), rect_epoch(odd_index, hyp=hyp, epoch=1)
    for step, (one, two) in enumerate(zip(first, other, strict=True)):
        assert images_of(odd_index, step, **RECT) == images_of(odd_index, step, epoch=1, **RECT)
        assert not torch.equal(one.images, two.images)


def test_last_rect_batch_is_filled_with_images_of_its_own_shape(odd_index):
    """The beginning of the order has the widest images, which would be thumbnails in a tall batch."""
    last = rect_epoch(odd_index)[-1]
    order = rect_plan(odd_index.shapes_hw, batch=4, imgsz=S, stride=32, pad=0.0)[0]
    assert images_of(odd_index, 2, **RECT) == [*order[8:], *order[:7:-1]]
    assert last.images.shape[2] > last.images.shape[3]


@pytest.mark.parametrize(("world_size", "workers"), [(2, 0), (4, 0), (2, 1)])
def test_rect_shards_have_one_shape_and_join_to_the_global_batch(odd_index, world_size, workers):
    """The original plans per rank, shapes differ, and gathered training hangs or fails."""
    hyp = Hyperparameters(degrees=5, flipud=0.5)
    alone = rect_epoch(odd_index, hyp=hyp)
    shards = [
        rect_epoch(odd_index, hyp=hyp, rank=rank, world_size=world_size, workers=workers) for rank in range(world_size)
    ]
    for step, whole in enumerate(alone):
        parts = [shard[step] for shard in shards]
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        assert torch.equal(torch.cat([part.targets[:, 1:] for part in parts]), whole.targets[:, 1:])


def test_rect_epoch_can_be_entered_at_any_step(odd_index):
    later, whole = rect_epoch(odd_index, first_step=1), rect_epoch(odd_index)
    assert len(later) == len(whole) - 1
    assert all(torch.equal(one.images, two.images) for one, two in zip(later, whole[1:], strict=True))


def test_rect_batches_have_no_mosaics(odd_index):
    """One image, one object; a mosaic of these would have parts of four."""
    for batch in rect_epoch(odd_index, hyp=Hyperparameters(**STILL, mosaic=1, mixup=1, copy_paste=1)):
        assert torch.bincount(batch.targets[:, 0].long(), minlength=4).tolist() == [1] * 4


def test_object_lies_in_its_box_in_a_rectangle(odd_index):
    for step, batch in enumerate(rect_epoch(odd_index)):
        height, width = batch.images.shape[2:]
        for position, image in enumerate(images_of(odd_index, step, **RECT)):
            (target,) = batch.targets[batch.targets[:, 0] == position].tolist()
            file_h, file_w = SHAPES[image]
            ratio = min(height / file_h, width / file_w)
            assert target[2:4] == pytest.approx([0.5, 0.5], abs=0.02)
            assert target[4] * width == pytest.approx(0.8 * file_w * ratio, abs=1.5)
            assert target[5] * height == pytest.approx(0.8 * file_h * ratio, abs=1.5)


def test_rect_sides_are_multiples_of_the_stride(odd_index):
    for batch in rect_epoch(odd_index, stride=64):
        assert batch.images.shape[2] % 64 == batch.images.shape[3] % 64 == 0


def test_one_image_fills_a_rect_batch(odd_index):
    alone = index_of(odd_index.paths[:1], SHAPES[:1], [odd_index.labels[0]])
    (batch,) = rect_epoch(alone)
    assert batch.images.shape == (4, 3, 64, 128)
    assert images_of(alone, 0, **RECT) == [0] * 4


@pytest.mark.parametrize("workers", [0, 2])
def test_next_epoch_is_loaded_while_the_task_is_away(train_index, workers):
    """No worker waits for the task to begin the epoch: after an evaluation the first batches are there."""
    loader = make_loader(train_index, workers=workers)
    for epoch in range(3):
        assert_same(loader.epoch(epoch), epoch_of(train_index, epoch))
        if workers:
            wait_until(lambda: loader._queue.num_ready == workers * PREFETCH, "batches of the next epoch")
            loader_iterator = loader._loader._iterator
    if workers:
        next(loader.epoch(3))
        assert loader.num_ready == workers * PREFETCH
        assert loader._loader._iterator is loader_iterator


@pytest.mark.parametrize("ahead", [True, False])
def test_batches_ready_are_those_made_and_not_taken_even_after_a_jump(train_index, ahead):
    loader = make_loader(train_index, workers=2)
    loader._loads_ahead = ahead
    for epoch, first_step in ((0, 0), (1, 0), (7, 1), (7, 2), (2, 0), (3, 0)):
        batches = loader.epoch(epoch, first_step)
        taken = [next(batches)] if epoch == 7 else list(batches)  # an epoch that is left
        assert_same(taken, epoch_of(train_index, epoch, first_step)[: len(taken)])
        if ahead:
            wait_until(lambda: loader._queue.num_ready == 2 * PREFETCH, "batches")
        else:
            wait_until(lambda: loader._queue._made.sum() == loader._queue._num_sent, "batches")
        assert loader._queue.num_ready == loader._queue._num_sent - loader._queue.num_taken


def test_nothing_is_loaded_after_the_last_epoch(train_index):
    loader = make_loader(train_index, workers=1, epochs=2)
    for epoch in range(2):
        assert_same(loader.epoch(epoch), epoch_of(train_index, epoch))
    assert loader._queue._num_sent == 2 * len(loader)


WITHOUT_MOSAICS = msgspec.structs.replace(LIVELY, mosaic=0)
CLOSING = msgspec.structs.replace(LIVELY, close_mosaic=2)


@pytest.mark.parametrize(
    "options",
    [{}, {"workers": 2}, {"workers": 1, "window_partners": True}, {"rank": 1, "world_size": 2}, {"rect": True}],
    ids=str,
)
def test_mosaics_end_before_the_last_epochs(train_index, options):
    """Also in batches that workers load ahead over the switch, and however the loader is entered."""
    loader = make_loader(train_index, hyp=CLOSING, epochs=4, **options)
    for epoch in range(4):
        hyp = LIVELY if epoch < 2 else WITHOUT_MOSAICS
        assert_same(loader.epoch(epoch), epoch_of(train_index, epoch, hyp=hyp, **options))
        resumed = make_loader(train_index, hyp=CLOSING, epochs=4, **options)
        assert_same(resumed.epoch(epoch, 1), epoch_of(train_index, epoch, 1, hyp=hyp, **options))


def test_mosaics_end_in_a_cache_too(train_index):
    cache = new_memory_cache(plan_slots(train_index.shapes_hw, IMGSZ))
    loader = make_loader(train_index, hyp=CLOSING, epochs=3, cache=cache)
    for epoch in range(3):
        hyp = LIVELY if epoch < 1 else WITHOUT_MOSAICS
        assert_same(loader.epoch(epoch), epoch_of(train_index, epoch, hyp=hyp))


@pytest.mark.parametrize(
    ("epochs", "epoch", "expected"),
    [(4, 1, LIVELY), (4, 2, WITHOUT_MOSAICS), (6, 2, LIVELY), (6, 4, WITHOUT_MOSAICS), (1, 0, WITHOUT_MOSAICS)],
    ids=["before the last two", "last two", "of an extended run", "last two of that", "fewer epochs"],
)
def test_last_epochs_are_those_of_the_epochs_of_the_attempt(train_index, epochs, epoch, expected):
    assert_same(epoch_of(train_index, epoch, hyp=CLOSING, epochs=epochs), epoch_of(train_index, epoch, hyp=expected))
    other = LIVELY if expected is WITHOUT_MOSAICS else WITHOUT_MOSAICS
    images, others = (epoch_of(train_index, epoch, hyp=hyp)[0].images for hyp in (expected, other))
    assert not torch.equal(images, others)


def test_draws_by_weight_wait_for_the_evaluation(train_index):
    """The order of an epoch depends on it."""
    loader, maps = make_loader(train_index, by_weight=True, workers=1), [1.0, 1.0, 1.0, 0.0]
    list(loader.epoch(0))
    assert loader._queue._num_sent == len(loader)
    plain = make_loader(train_index, by_weight=True)
    assert_same(loader.epoch(1, class_maps=maps), plain.epoch(1, class_maps=maps))


def test_any_step_is_reached_without_those_before(train_index, monkeypatch):
    """A million steps into an epoch must not take a million steps."""
    monkeypatch.setattr(ShardPlan, "steps_per_epoch", 10**9)
    loader = make_loader(train_index, batch=1)
    batch = next(loader.epoch(0, 10**9 - 3))
    assert len(batch.images) == 1
    assert loader._queue._num_sent == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_validation_that_has_begun_ahead_has_all_its_batches_once(train_index, workers):
    loader = make_validation_loader(train_index, workers=workers)
    for _ in range(2):
        loader.begin()
        loader.begin()
        assert_same(loader, make_validation_loader(train_index))
    loader.begin()
    next(iter(loader))  # an evaluation that a signal ends
    assert_same(loader, make_validation_loader(train_index))


def test_first_validation_batches_are_made_before_they_are_asked_for(train_index, tmp_path, monkeypatch):
    """Read by the worker: each leaves a file."""

    def watched(path, reduction):
        (tmp_path / Path(path).name).touch()
        return read_image(path, reduction)

    monkeypatch.setattr(source_module, "read_image", watched)
    loader = make_validation_loader(train_index, workers=1)
    loader.begin()
    wait_until(lambda: len(list(tmp_path.iterdir())) == 4 * PREFETCH, "the first batches")
