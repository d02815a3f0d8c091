"""Drawn sets: all classes, the same bytes whenever they are drawn, and nothing left after a failure."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import DataError
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.synth import GLYPHS, KINDS, SHAPES, write_drawn_dataset, write_shapes_dataset

ALL_KINDS = pytest.mark.parametrize("kind", KINDS)


@ALL_KINDS
def test_classes_are_balanced_and_splits_differ(tmp_path, kind):
    path = write_drawn_dataset(kind, tmp_path / "set", num_train=60, num_val=60, image_size=(160, 120))
    dataset = load_dataset(path)
    train, val = scan_split(dataset, "train"), scan_split(dataset, "val")
    counts = np.bincount(np.concatenate(train.labels)[:, 0].astype(int), minlength=len(KINDS[kind].classes))
    assert counts.min() > 0.5 * counts.mean()
    assert train.num_corrupt == val.num_corrupt == train.num_backgrounds == 0
    lines = [{line.tobytes() for labels in index.labels for line in labels} for index in (train, val)]
    assert not lines[0] & lines[1], "validation must not show training's images"


@ALL_KINDS
def test_set_is_the_same_for_a_seed_and_has_all_classes(tmp_path, kind):
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        write_drawn_dataset(kind, tmp_path / name, num_train=12, num_val=2, seed=seed)

    def content(name):
        return {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in sorted((tmp_path / name).rglob("*"))
            if path.suffix in (".jpg", ".txt")
        }

    assert content("first") == content("again")
    assert content("first") != content("other")
    labels = np.concatenate(scan_split(load_dataset(tmp_path / "first" / "dataset.yaml"), "train").labels)
    assert set(labels[:, 0].astype(int)) == set(range(len(KINDS[kind].classes)))


@ALL_KINDS
def test_larger_set_begins_with_the_smaller_one(tmp_path, kind):
    """Each image is drawn from its own number, so more images change none of the first."""
    for name, count in (("small", 3), ("large", 5)):
        write_drawn_dataset(kind, tmp_path / name, num_train=count, num_val=1, image_size=(96, 96))
    for number in range(3):
        name = f"images/train/{number:05d}.jpg"
        assert (tmp_path / "small" / name).read_bytes() == (tmp_path / "large" / name).read_bytes()


def test_set_can_be_moved(tmp_path):
    path = write_shapes_dataset(tmp_path / "here", num_train=1, num_val=1, image_size=(96, 96))
    moved = tmp_path / "there"
    path.parent.rename(moved)
    assert scan_split(load_dataset(moved / "dataset.yaml"), "train").num_images == 1


def test_empty_directory_is_drawn_into_and_readable_by_a_group(tmp_path):
    (tmp_path / "set").mkdir()
    path = write_shapes_dataset(tmp_path / "set", num_train=1, num_val=1, image_size=(96, 96))
    assert path.parent.stat().st_mode & 0o055 == 0o055
    assert not list(tmp_path.glob(".set*"))


def test_progress_counts_every_image(tmp_path):
    calls = []
    write_shapes_dataset(
        tmp_path / "set",
        num_train=3,
        num_val=2,
        image_size=(96, 96),
        on_progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(done, 5) for done in range(1, 6)]


def test_existing_content_is_left_alone(tmp_path):
    path = write_shapes_dataset(tmp_path / "set", num_train=2, num_val=1)
    before = path.stat().st_mtime_ns
    assert write_shapes_dataset(tmp_path / "set", num_train=2, num_val=1).stat().st_mtime_ns == before
    for kind, num_train in ((SHAPES, 3), (GLYPHS, 2)):
        with pytest.raises(DataError, match="another drawn set"):
            write_drawn_dataset(kind, tmp_path / "set", num_train=num_train, num_val=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(DataError, match="was not drawn here"):
        write_shapes_dataset(tmp_path / "mine", num_train=2, num_val=1)
    assert [child.name for child in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_interrupted_drawing_leaves_nothing(tmp_path):
    def interrupt(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shapes_dataset(tmp_path / "set", num_train=4, num_val=1, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("largest_bytes", [0, 1000])
def test_full_disk_is_an_error_and_leaves_nothing(tmp_path, largest_bytes):
    """A limit on the size of files acts as a full disk does: writes fail half way."""
    program = (
        "import resource, sys; from pathlib import Path; from hpc_yolo.data.synth import write_shapes_dataset\n"
        "from hpc_yolo.core.errors import DataError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
        "try: write_shapes_dataset(Path(sys.argv[1]), num_train=2, num_val=1)\n"
        "except DataError as error: sys.stderr.write(str(error)); sys.exit(3)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "set"), str(largest_bytes)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "cannot be written" in done.stderr and "is the disk full?" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_working_directory_and_links_as_targets(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    (tmp_path / "link").symlink_to("set")
    monkeypatch.chdir(tmp_path / "set")
    with pytest.raises(DataError, match="link: is a link to set"):
        write_shapes_dataset(tmp_path / "link", num_train=1, num_val=1, image_size=(96, 96))
    write_shapes_dataset(Path(), num_train=1, num_val=1, image_size=(96, 96))
    assert (tmp_path / "set" / "dataset.yaml").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"set", "link"}


def test_directory_that_is_filled_meanwhile_is_left_alone(tmp_path):
    """Two processes that draw into one directory at once."""

    def disturb(_done: int, _total: int) -> None:
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / "theirs").touch()

    with pytest.raises(DataError, match="set: cannot be written"):
        write_shapes_dataset(tmp_path / "set", num_train=1, num_val=1, image_size=(96, 96), on_progress=disturb)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["theirs"]


def test_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be made"):
        write_shapes_dataset(tmp_path / "file" / "set", num_train=1, num_val=1)


@pytest.mark.parametrize(
    "changes", [{"image_size": (20, 240)}, {"image_size": (320, 27)}, {"num_train": 0}, {"num_val": -1}], ids=str
)
def test_impossible_set_is_refused_before_anything_is_made(tmp_path, changes):
    with pytest.raises(DataError, match="are needed"):
        write_shapes_dataset(tmp_path / "set", **{"num_train": 1, "num_val": 1, **changes})
    assert list(tmp_path.iterdir()) == []


def test_negative_seed_is_a_wrong_option(tmp_path):
    result = CliRunner().invoke(cli, ["data", "synth", str(tmp_path / "set"), "--seed", "-1"])
    assert result.exit_code == 2 and "-1 is not in the range" in result.output


def test_file_instead_of_the_directory_is_named(tmp_path):
    (tmp_path / "set").touch()
    with pytest.raises(DataError, match="is a file"):
        write_shapes_dataset(tmp_path / "set", num_train=1, num_val=1)
