"""The images of a run: a later attempt has those that are damaged or lost, and any other change is left to the scan."""

import dataclasses
import os
import shutil

import pytest
import torch
from image_sets import GOOD, add, different, encoded, make_set, scan
from packed_sets import POLYGON, pack, write_source

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import DataError
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.scan_cache import read_index
from hpc_yolo.distributed import World
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.training import kept_images
from hpc_yolo.training.kept_images import keep_images, with_lost_images

ONE_RANK = World(ProcessInfo(0, 0, 0, 1, 1, 1, "127.0.0.1", None, "single"), torch.device("cpu"), ())
NUM_IMAGES = 8


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.inputs.mkdir(parents=True)
    return run


@pytest.fixture
def root(tmp_path, run):
    """The dataset of a run that has had an attempt."""
    root = make_set(tmp_path / "set")
    for number in range(NUM_IMAGES):
        add(root, f"{number}.jpg", different(number, ".jpg"), POLYGON if number % 2 else GOOD)
    keep(run, root)
    return root


def keep(run, root, emit=None):
    index = scan(root)
    keep_images(run, load_dataset(root / "d.yaml"), (index, index), emit or pytest.fail)
    return index


def images_now(run, root, world=ONE_RANK):
    return with_lost_images(run, load_dataset(root / "d.yaml"), "train", scan(root), world)


def content(index):
    """Return all that samples are made of."""
    arrays = index.shapes_hw, index.labels.rows, index.labels.bounds, index.outlines.points, index.outlines.counts
    return list(index.paths), [array.tolist() for array in (*arrays, index.crowds)]


def image(root, number=1):
    return root / "images" / "train" / f"{number}.jpg"


def label(root, number=1):
    return root / "labels" / "train" / f"{number}.txt"


def cut(path, size):
    os.truncate(path, size)


DAMAGE = {
    "lost": lambda root: image(root).unlink(),
    "lost with its label": lambda root: (image(root).unlink(), label(root).unlink()),
    "empty": lambda root: cut(image(root), 0),
    "cut off in the header": lambda root: cut(image(root), 50),
    "cut off": lambda root: cut(image(root), image(root).stat().st_size // 2),
    "zeros": lambda root: image(root).write_bytes(bytes(1000)),
    "as many as allowed": lambda root: [image(root, number).unlink() for number in (0, 1, 7)],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_images_stay_in_later_attempts(run, root, damage):
    before = scan(root)
    damage(root)
    assert scan(root).num_images < NUM_IMAGES
    now = images_now(run, root)
    assert content(now) == content(before)
    assert "of earlier attempts cannot be read completely now" in now.messages[-1]
    assert len({now.digest, before.digest, scan(root).digest}) == 3, "decoded images are cached by digest"
    keep_images(run, load_dataset(root / "d.yaml"), (now, now), pytest.fail)
    assert content(images_now(run, root)) == content(before), "also in the attempt after that"


CHANGES = {
    "nothing": lambda _root: None,
    "more lost than allowed": lambda root: [image(root, number).unlink() for number in range(4)],
    "new image": lambda root: add(root, "new.jpg", different(99, ".jpg")),
    "one lost and one new": lambda root: (image(root).unlink(), add(root, "new.jpg", different(99, ".jpg"))),
    "invalid label": lambda root: label(root).write_text("7 0.5 0.5 0.5 0.5\n"),
    "other label": lambda root: label(root).write_text("1 0.4 0.4 0.2 0.2\n"),
    "one lost and another label": lambda root: (image(root, 0).unlink(), label(root).write_text(GOOD * 2)),
    "one lost and another size": lambda root: (
        image(root, 0).unlink(),
        image(root).write_bytes(encoded(".jpg", different_size())),
    ),
    "not listed": lambda root: (
        (root / "list.txt").write_text("".join(f"{image(root, number)}\n" for number in range(NUM_IMAGES - 1))),
        (root / "d.yaml").write_text("train: list.txt\nval: list.txt\nnames: [cat, dog]\n"),
    ),
}


def different_size():
    return torch.zeros(30, 50, 3, dtype=torch.uint8).numpy()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_changes_are_as_the_scan_finds_them(run, root, change):
    change(root)
    now, scanned = images_now(run, root), scan(root)
    assert content(now) == content(scanned)
    assert (now.digest, now.messages) == (scanned.digest, scanned.messages)


FILES = {
    "of an earlier version": lambda path: path.unlink(),
    "empty": lambda path: cut(path, 0),
    "cut off": lambda path: cut(path, path.stat().st_size - 100),
    "another file": lambda path: path.write_text("images"),
}


@pytest.mark.parametrize("change", FILES.values(), ids=FILES)
def test_run_without_readable_file_uses_the_scan(run, root, change):
    change(run.kept_images("train"))
    image(root).unlink()
    assert images_now(run, root).num_images == NUM_IMAGES - 1


def test_moved_dataset_has_its_images_at_the_new_location(run, root, tmp_path):
    moved = root.rename(tmp_path / "moved")
    image(moved).unlink()
    assert content(images_now(run, moved))[0] == [str(image(moved, number)) for number in range(NUM_IMAGES)]


def test_edited_labels_replace_those_of_the_earlier_attempt(run, root):
    label(root, 2).write_text("1 0.4 0.4 0.2 0.2\n")
    edited = keep(run, root)
    image(root).unlink()
    assert content(images_now(run, root)) == content(edited)


def test_same_images_are_neither_read_nor_written_again(run, root, monkeypatch):
    monkeypatch.setattr(kept_images, "read_index", pytest.fail)
    monkeypatch.setattr(kept_images, "write_index", pytest.fail)
    keep(run, root)
    assert images_now(run, root).num_images == NUM_IMAGES


def test_images_that_cannot_be_written_are_a_warning(run, root):
    shutil.rmtree(run.inputs)
    warnings = []
    keep(run, root, warnings.append)
    assert "images-train.npz: cannot be written: No such file" in warnings[0].message


def test_images_of_a_packed_set_are_not_kept(run, tmp_path):
    write_source(tmp_path / "source")
    pack(tmp_path / "source" / "d.yaml", tmp_path / "packed")
    dataset = load_dataset(tmp_path / "packed")
    keep_images(run, dataset, [scan_split(dataset, split) for split in ("train", "val")], pytest.fail)
    assert list(run.inputs.iterdir()) == []


@dataclasses.dataclass(frozen=True)
class SecondRank(World):
    """Rank 1 of two; the number of lost images that rank 0 has found is known."""

    num_lost: int = 0

    def gather_numbers(self, numbers):
        return [[self.num_lost], list(numbers)]


def second_rank(num_lost):
    process = ProcessInfo(1, 1, 0, 2, 2, 1, "127.0.0.1", None, "single")
    return SecondRank(process, ONE_RANK.device, (), num_lost=num_lost)


def test_all_ranks_have_the_images_that_rank_0_has(run, root):
    image(root).unlink()
    assert content(images_now(run, root, second_rank(1))) == content(images_now(run, root))
    assert images_now(run, root, second_rank(0)).num_images == NUM_IMAGES - 1
    assert read_index(run.kept_images("train")).num_images == NUM_IMAGES
    run.kept_images("train").unlink()
    with pytest.raises(DataError, match=r"images-train\.npz: cannot be read, and rank 0 has read it"):
        images_now(run, root, second_rank(1))
