"""A dataset in an archive: found, read in place, with the samples of the same files on a disk."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from archives import tar_of, tar_with, zip_of, zip_with
from coco_sets import one, write_coco
from packed_sets import pack, write_source
from squashfs_images import squashfs_of

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.check.fix import require_fixable
from hpc_yolo.data.contents import read_content
from hpc_yolo.data.convert.convert import convert
from hpc_yolo.data.convert.source import find_dataset
from hpc_yolo.data.dataset import dataset_content, load_dataset
from hpc_yolo.data.dataset_source import readable_dataset
from hpc_yolo.data.loader import TrainingLoader
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.staging.files import files_to_stage
from hpc_yolo.data.staging.measure import quick_size_bytes
from hpc_yolo.launch.container_job import data_paths
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.load import load_spec
from hpc_yolo.spec.recipe import Hyperparameters


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The dataset YAML of a set with three splits."""
    return write_source(tmp_path / "set")


def index_of(data, split="train", **options):
    return scan_split(load_dataset(data, **options), split, needs_labels=False)


@pytest.fixture(params=["x.tar", "x.zip", "x.zip in a directory", "x.zip deflated", "x.sqsh"])
def archive(request, source, tmp_path):
    """An archive of `source`, of each kind."""
    name, _, how = request.param.partition(" ")
    if name == "x.tar":
        return tar_of(source.parent, tmp_path / name, "./")
    if name == "x.sqsh":
        return squashfs_of(source.parent, tmp_path / name)
    method = zipfile.ZIP_DEFLATED if how == "deflated" else zipfile.ZIP_STORED
    return zip_of(source.parent, tmp_path / name, "deep/set/" if "directory" in how else "", method=method)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_index_is_that_of_the_files(source, archive, split):
    loose, found = index_of(source, split), index_of(archive, split)
    np.testing.assert_array_equal(found.shapes_hw, loose.shapes_hw)
    np.testing.assert_array_equal(found.labels.rows, loose.labels.rows)
    np.testing.assert_array_equal(found.outlines.points, loose.outlines.points)
    assert [read_content(path) for path in found.paths] == [Path(path).read_bytes() for path in loose.paths]
    assert found.num_corrupt == loose.num_corrupt
    inside = f"{load_dataset(archive).root}/"
    shown = [message.replace(inside, f"{source.parent}/") for message in found.messages]
    assert shown == list(loose.messages)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_files_bit_for_bit(source, archive, workers):
    options = {"imgsz": 64, "batch": 4, "rank": 0, "world_size": 1, "seed": 0, "workers": workers}
    loose, found = (
        list(TrainingLoader(index_of(data), hyp=Hyperparameters(mixup=0.5), **options).epoch(0))
        for data in (source, archive)
    )
    assert all(a.images.equal(b.images) and a.targets.equal(b.targets) for a, b in zip(loose, found, strict=True))


def test_scan_is_kept_beside_the_archive_until_it_changes(source, archive, monkeypatch):
    first = index_of(archive)
    assert list(archive.parent.glob(f".{archive.name}.*.npz"))
    with monkeypatch.context() as patch:
        patch.setattr("hpc_yolo.data.scan._scan", lambda *_: pytest.fail("scanned again"))
        assert index_of(archive).paths == first.paths
    (source.parent / "labels" / "train" / "image 0.txt").write_text("1 0.5 0.5 0.1 0.1\n")
    if archive.suffix == ".sqsh":
        squashfs_of(source.parent, archive)
    else:
        (zip_of if archive.suffix == ".zip" else tar_of)(source.parent, archive, inner(archive))
    assert index_of(archive).labels[1][0][0] == 1


def inner(archive):
    """Return the directory of the dataset in an archive, with a slash."""
    place = str(load_dataset(archive).root).removeprefix(str(archive)).strip("/")
    return f"{place}/" if place else ""


def test_archive_can_be_packed(source, archive, tmp_path):
    pack(archive, tmp_path / "from archive")
    pack(source, tmp_path / "from files")
    names = {path.name for path in (tmp_path / "from files").iterdir()}
    for name in names:
        assert (tmp_path / "from archive" / name).read_bytes() == (tmp_path / "from files" / name).read_bytes()


def test_run_keeps_absolute_paths_into_the_archive(archive, tmp_path, monkeypatch):
    content = dataset_content(archive)
    assert content["train"][0].startswith(f"{archive}/") and content["names"] == ["cat", "dog"]
    (tmp_path / "copy.yaml").write_text(json.dumps(content))
    assert load_dataset(tmp_path / "copy.yaml").train == load_dataset(archive).train
    assert readable_dataset(str(archive)) is not None
    (tmp_path / "spec.yaml").write_text(f"name: r\nmodel: yolov5n\ndata: {archive.name}\n")
    monkeypatch.chdir("/")
    assert load_spec(tmp_path / "spec.yaml").data.path == str(archive)


def test_yaml_on_a_disk_may_name_directories_and_lists_in_archives(source, archive, tmp_path):
    root = load_dataset(archive).root
    (tmp_path / "own.yaml").write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n")
    assert index_of(tmp_path / "own.yaml").paths == index_of(archive).paths
    images = zip_of(source.parent / "images" / "val", tmp_path / "only images.zip")
    (tmp_path / "flat.yaml").write_text(f"train: {images}\nval: {images}\nnames: [cat, dog]\n")
    assert index_of(tmp_path / "flat.yaml").paths[0] == f"{images}/ä.png"


def test_list_in_an_archive_has_paths_relative_to_it(source, tmp_path, monkeypatch):
    (source.parent / "train.txt").write_text(
        "images/../images/train/image 0.jpg\n/home/someone/set/images/train/image 1.png\n"
    )
    source.write_text("train: train.txt\nval: images/val\nnames: [cat, dog]\n")
    archive = zip_of(source.parent, tmp_path / "x.zip")
    paths = [f"{archive}/images/train/image 0.jpg", f"{archive}/images/train/image 1.png"]
    assert list(index_of(archive).paths) == paths
    behind_dots = source.parent / ".." / "x.zip"  # such as from a spec with data: ../x.zip
    assert list(index_of(behind_dots).paths) == [path.replace(str(archive), str(behind_dots)) for path in paths]
    monkeypatch.chdir(tmp_path)
    assert list(index_of(Path("x.zip")).paths) == paths


@pytest.mark.parametrize("written", ["path: ../datasets/set\n", "path: /home/someone/set\n", "path: .\n", ""])
def test_root_of_another_machine_is_the_directory_of_the_yaml(source, tmp_path, written):
    source.write_text(f"{written}train: ../images/train\nval: images/val\nnames: [cat, dog]\n")
    archive = tar_of(source.parent, tmp_path / "x.tar", "top/")
    assert index_of(archive).num_images == 10


def test_coco_dataset_in_an_archive(tmp_path):
    data = write_coco(tmp_path / "set", [one(1), one(2, 7), one(2, iscrowd=1)])
    archive = zip_of(data.parent, tmp_path / "x.zip", "set/")
    loose, found = index_of(data), index_of(archive)
    assert [Path(path).name for path in found.paths] == [Path(path).name for path in loose.paths]
    np.testing.assert_array_equal(found.labels.rows, loose.labels.rows)
    np.testing.assert_array_equal(found.crowds, loose.crowds)
    assert load_dataset(archive).names == load_dataset(data).names


def test_coco_file_in_an_archive_is_converted_from_any_directory(tmp_path, monkeypatch):
    write_coco(tmp_path / "coco", [one()])
    (tmp_path / "coco" / "pictures").rename(tmp_path / "coco" / "images")
    zip_of(tmp_path / "coco", tmp_path / "a.zip")
    monkeypatch.chdir(tmp_path)
    names = Path("a.zip/a.json"), Path("coco/../a.zip/a.json")
    for number, source in enumerate((*names, *(tmp_path / name for name in names))):
        found = convert(find_dataset(source), tmp_path / str(number), "yolo", images="copy")
        assert found.splits["train"].num_objects == 1


@pytest.mark.parametrize("kind", ["split", "list", "coco"])
def test_archive_that_names_images_outside_of_it_is_refused(source, tmp_path, kind):
    outside = tmp_path / "set" / "images" / "train"
    inside = tmp_path / "hostile"
    inside.mkdir()
    train = {"split": str(outside), "list": "train.txt", "coco": "a.json"}[kind]
    (inside / "train.txt").write_text(f"{outside}/image 0.jpg\n")
    entry = {"id": 1, "file_name": f"{outside}/image 0.jpg", "width": 60, "height": 40}
    coco = {"images": [entry], "annotations": [one(1)], "categories": [{"id": 3, "name": "cat"}]}
    (inside / "a.json").write_text(json.dumps(coco))
    format_line = "format: coco\n" if kind == "coco" else ""
    (inside / "d.yaml").write_text(f"{format_line}train: {train}\nval: {train}\nnames: [cat]\n")
    archive = zip_of(inside, tmp_path / "x.zip")
    with pytest.raises(DataError, match=r"is not in .*x\.zip; nothing outside of it is read|does not exist"):
        index_of(archive)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("images/1.jpg",), "has no dataset YAML with train and val"),
        (("a.yaml", "b.yml"), "has the dataset YAMLs a.yaml, b.yml"),
        (("__MACOSX/a.yaml", ".a.yaml"), "has no dataset YAML"),
        (("a.txt",), "has no dataset YAML"),
    ],
)
def test_archive_without_one_dataset_yaml_is_refused(tmp_path, names, message):
    path = zip_with(tmp_path / "x.zip", *names, content=b"train: a\nval: a\nnames: [a]\n")
    with pytest.raises(DataError, match=message) as raised:
        load_dataset(path)
    assert str(path) in raised.value.hint or path.name in raised.value.hint


def test_yaml_nearest_to_the_top_is_used(tmp_path):
    path = zip_with(tmp_path / "x.zip", "one/two/a.yaml", "one/b.yaml", content=b"train: a\nval: a\nnames: [a]\n")
    with pytest.raises(DataError, match=r"x.zip/one/b.yaml: train: .*x.zip/one/a does not exist"):
        load_dataset(path)


def test_refused_archive_is_a_message_not_a_traceback(tmp_path):
    path = tar_with(tmp_path / "x.tar", ("../a.jpg", {}))
    with pytest.raises(DataError, match=r"x.tar: the name of a member leads out of the archive"):
        load_dataset(path)
    assert readable_dataset(str(path)) is None


def test_staging_copies_the_archive_itself(archive):
    dataset = load_dataset(archive)
    assert files_to_stage(dataset, ("train", "val")) == [str(archive)]
    assert quick_size_bytes(dataset) == archive.stat().st_size


def test_container_mounts_the_directory_of_the_archive(archive, tmp_path):
    (tmp_path / "spec.yaml").write_text(f"name: r\nmodel: yolov5n\ndata: {archive}\noutput: {tmp_path}/runs\n")
    spec = load_spec(tmp_path / "spec.yaml")
    assert set(data_paths(spec, RunDirectory(tmp_path / "runs" / "r"))) == {str(tmp_path)}


def test_corrected_copy_of_an_archive_is_refused(archive, tmp_path):
    with pytest.raises(DataError, match="--fix links to directories of images"):
        require_fixable(load_dataset(archive), archive, {}, tmp_path / "fixed")
