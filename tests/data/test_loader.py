"""Design decision 1: what the model sees is a function of (seed, epoch, step), whoever loads it."""

import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.loader import TrainingLoader, ValidationLoader
from hpc_yolo.data.sampler import epoch_order, global_batch, rank_shard, steps_per_epoch
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.synth import CLASSES, write_shapes_dataset
from hpc_yolo.evaluation.evaluator import to_original_pixels
from hpc_yolo.spec.schema import Hyperparameters

HYP = Hyperparameters(mixup=0.5, mosaic=0.7, flipud=0.5, degrees=5.0)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    path = write_shapes_dataset(
        tmp_path_factory.mktemp("data") / "shapes", num_train=10, num_val=7, image_size=(96, 64)
    )
    dataset = load_dataset(path)
    return scan_split(dataset, "train"), scan_split(dataset, "val")


def training_batches(
    index, *, epoch=0, first_step=0, rank=0, world_size=1, workers=0, in_memory=False, seed=0, batch=4
):
    loader = TrainingLoader(
        index[0],
        imgsz=64,
        batch=batch,
        hyp=HYP,
        seed=seed,
        rank=rank,
        world_size=world_size,
        workers=workers,
        in_memory=in_memory,
    )
    return list(loader.epoch(epoch, first_step))


def joined(shares):
    """The global batches out of the ranks' shares, images numbered through."""
    batches = []
    for parts in zip(*shares, strict=True):
        targets = []
        for rank, part in enumerate(parts):
            moved = part.targets.clone()
            moved[:, 0] += rank * len(part.images)
            targets.append(moved)
        batches.append((torch.cat([part.images for part in parts]), torch.cat(targets)))
    return batches


def assert_same(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        for left, right in zip(one, other, strict=True):
            assert torch.equal(left, right)


@pytest.mark.parametrize(
    ("world_size", "workers", "in_memory"),
    [(1, 2, "none"), (2, 0, "none"), (4, 0, "none"), (2, 1, "none"), (1, 0, "ram")],
)
def test_neither_ranks_nor_workers_nor_cache_change_what_the_model_sees(index, world_size, workers, in_memory):
    alone = joined([training_batches(index, epoch=3)])
    shares = [
        training_batches(index, epoch=3, rank=rank, world_size=world_size, workers=workers, in_memory=in_memory)
        for rank in range(world_size)
    ]
    assert_same(joined(shares), alone)


def test_an_epoch_can_be_entered_anywhere(index):
    assert_same(joined([training_batches(index, first_step=1)]), joined([training_batches(index)])[1:])


@pytest.mark.parametrize("changes", [{"epoch": 1}, {"seed": 1}])
def test_another_epoch_or_seed_is_another_order_and_other_images(index, changes):
    first, other = training_batches(index), training_batches(index, **changes)
    orders = [epoch_order(10, **{"seed": 0, "epoch": 0, **more}).tolist() for more in ({}, changes)]
    assert orders[0] != orders[1]
    assert not torch.equal(first[0].images, other[0].images)


def test_a_loader_lives_for_many_epochs(index):
    loader = TrainingLoader(index[0], imgsz=64, batch=4, hyp=HYP, seed=0, rank=0, world_size=1, workers=1)
    for epoch in (0, 1):
        batches = list(loader.epoch(epoch))
        assert len(batches) == len(loader) == 3
        assert_same(joined([batches]), joined([training_batches(index, epoch=epoch)]))


def test_batches_have_the_promised_form(index):
    for batch in training_batches(index):
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape == (4, 3, 64, 64)
        assert batch.targets.dtype == torch.float32
        assert batch.targets[:, 0].max() < 4
        assert batch.targets[:, 2:].min() >= 0
        assert batch.targets[:, 2:].max() <= 1


def test_an_epoch_has_every_image_and_full_batches():
    order = epoch_order(10, seed=3, epoch=5)
    assert sorted(order) == list(range(10))
    assert steps_per_epoch(10, 4) == 3
    batches = [global_batch(order, 4, step) for step in range(3)]
    assert np.concatenate(batches).tolist() == [*order, *order[:2]]
    shares = [rank_shard(batches[0], rank, 2) for rank in range(2)]
    assert np.concatenate(shares).tolist() == batches[0].tolist()
    assert global_batch(epoch_order(3, 0, 0), 8, 0).shape == (8,), "more images a step than there are"


def validation_batches(index, rank, world_size, workers=0):
    loader = ValidationLoader(index[1], imgsz=64, batch=4, stride=32, rank=rank, world_size=world_size, workers=workers)
    return list(loader)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 9])
def test_every_validation_image_is_on_one_rank(index, world_size):
    shares = [validation_batches(index, rank, world_size) for rank in range(world_size)]
    seen = [int(image) for share in shares for batch in share for image in batch.indices]
    assert sorted(seen) == list(range(7))
    counts = [sum(len(batch.indices) for batch in share) for share in shares]
    assert max(counts) - min(counts) <= 1
    shapes = {tuple(batch.images.shape[2:]) for share in shares for batch in share}
    assert shapes == {tuple(batch.images.shape[2:]) for batch in validation_batches(index, 0, 1)}


def test_validation_boxes_lead_back_to_the_file(index):
    for batch in validation_batches(index, 0, 1):
        height, width = batch.images.shape[2:]
        for position, image in enumerate(batch.indices.tolist()):
            own = batch.targets[batch.targets[:, 0] == position][:, 2:]
            half = own[:, 2:] / 2
            boxes = torch.cat((own[:, :2] - half, own[:, :2] + half), dim=1) * torch.tensor([width, height] * 2)
            back = to_original_pixels(boxes, batch.shapes[position])
            rows = torch.from_numpy(index[1].labels[image])
            expected = torch.cat((rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2), dim=1)
            assert torch.allclose(back, expected * torch.tensor([96, 64, 96, 64]), atol=0.5)


def test_workers_do_not_inherit_the_signals_of_their_task(index):
    """A worker that ignores SIGTERM keeps a finished job alive."""
    before = signal.signal(signal.SIGTERM, lambda *_: None), signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        loader = TrainingLoader(index[0], imgsz=64, batch=4, hyp=HYP, seed=0, rank=0, world_size=1, workers=1)
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
def test_a_image_that_vanishes_is_named(tmp_path, workers):
    path = write_shapes_dataset(tmp_path / "shapes", num_train=4, num_val=1, image_size=(96, 64))
    scanned = scan_split(load_dataset(path), "train"), None
    for image in (tmp_path / "shapes" / "images" / "train").iterdir():
        image.unlink()
    with pytest.raises(DataError, match=r"\.jpg: cannot be read"):
        training_batches(scanned, workers=workers)


def test_a_drawn_set_is_the_same_every_time_and_has_all_classes(tmp_path):
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        write_shapes_dataset(tmp_path / name, num_train=12, num_val=2, seed=seed)

    def content(name):
        return {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in sorted((tmp_path / name).rglob("*"))
            if path.suffix in (".jpg", ".txt")
        }

    assert content("first") == content("again")
    assert content("first") != content("other")
    rows = np.concatenate(scan_split(load_dataset(tmp_path / "first" / "dataset.yaml"), "train").labels)
    assert set(rows[:, 0].astype(int)) == set(range(len(CLASSES)))


def test_drawing_leaves_what_is_there_alone(tmp_path):
    path = write_shapes_dataset(tmp_path / "set", num_train=2, num_val=1)
    before = path.stat().st_mtime_ns
    assert write_shapes_dataset(tmp_path / "set", num_train=2, num_val=1).stat().st_mtime_ns == before
    with pytest.raises(DataError, match="another drawn set"):
        write_shapes_dataset(tmp_path / "set", num_train=3, num_val=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(DataError, match="was not drawn here"):
        write_shapes_dataset(tmp_path / "mine", num_train=2, num_val=1)
    assert [child.name for child in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_drawing_that_is_interrupted_leaves_nothing(tmp_path):
    def interrupt(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shapes_dataset(tmp_path / "set", num_train=4, num_val=1, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []
