"""The files of a dataset that are staged, and reading a packed set from its copy."""

import shutil
from pathlib import Path

import pytest
from packed_sets import pack, write_source

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.copies import reading_copies
from hpc_yolo.data.dataset import Dataset, load_dataset
from hpc_yolo.data.pack.index import SplitIndex
from hpc_yolo.data.staging.files import files_to_stage
from hpc_yolo.data.staging.measure import quick_size_bytes

SPLITS = ("train", "val")


@pytest.fixture
def loose(tmp_path) -> Dataset:
    return load_dataset(write_source(tmp_path / "set"))


@pytest.fixture
def packed(loose, tmp_path) -> Dataset:
    pack(loose.source, tmp_path / "packed")
    return load_dataset(tmp_path / "packed")


def test_images_of_the_splits_are_staged(loose):
    images = [str(path) for split in SPLITS for path in (loose.root / "images" / split).iterdir()]
    assert sorted(files_to_stage(loose, SPLITS)) == sorted(images)
    assert quick_size_bytes(loose) == sum(Path(path).stat().st_size for path in images)


def test_shards_of_the_splits_are_staged(packed):
    shards = [path for split in SPLITS for path in packed.root.glob(f"{split}-*.tar")]
    assert sorted(files_to_stage(packed, SPLITS)) == sorted(map(str, shards))
    assert quick_size_bytes(packed) == sum(path.stat().st_size for path in shards)
    assert len(list(packed.root.glob("test-*.tar"))) > 0  # which is not among them


def test_damaged_manifest_is_refused(packed):
    (packed.root / "packed.json").write_text("{}")
    with pytest.raises(DataError, match=r"packed\.json: is damaged"):
        files_to_stage(packed, SPLITS)
    assert quick_size_bytes(packed) is None


@pytest.mark.parametrize(
    ("damage", "is_left"),
    [
        (lambda _copy: None, False),
        (lambda copy: copy.unlink(), True),
        (lambda copy: copy.write_bytes(copy.read_bytes()[:700]), True),
        (lambda copy: copy.write_bytes(bytes(copy.stat().st_size)), True),
    ],
    ids=["whole", "removed", "cut off", "overwritten"],
)
def test_members_are_read_from_the_copy_or_if_that_is_damaged_from_the_set(damage, is_left, packed, tmp_path):
    expected = [SplitIndex(packed.train[0]).read(image) for image in range(5)]
    for path in files_to_stage(packed, SPLITS):
        copy = Path(f"{tmp_path}/copies{path}")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        damage(copy)
    index = SplitIndex(packed.train[0])
    with reading_copies(f"{tmp_path}/copies"):
        assert [index.read(image) for image in range(5)] == expected
        assert {file.name.startswith(f"{tmp_path}/copies") for file in index._files.values()} == {not is_left}


def test_damage_of_the_set_itself_is_an_error(packed):
    index = SplitIndex(packed.train[0])
    for shard in packed.root.glob("train-*.tar"):
        shard.write_bytes(bytes(shard.stat().st_size))
    with reading_copies("/no/copies"), pytest.raises(OSError, match="is damaged: not the CRC of the index"):
        index.read(0)
