"""The dataset of a spec without a dataset YAML: what a run copies, compares and reads."""

from __future__ import annotations

import msgspec
import pytest
import yaml
from coco_sets import CATEGORIES, one, write_coco

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.dataset import InlineDataset, load_dataset
from hpc_yolo.data.dataset_source import described, is_here, is_of_each_node, source_of, source_of_run
from hpc_yolo.data.image_count import count_images
from hpc_yolo.data.run_inputs import changed_inputs, keep_inputs, read_inputs, require_dataset_of_node
from hpc_yolo.data.scan import scan_split
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import Spec


@pytest.fixture
def spec(tmp_path) -> Spec:
    """A spec whose section `data` has the files of COCO's format."""
    write_coco(tmp_path / "set", [one(), one(2, category=7)])
    (tmp_path / "set" / "d.yaml").unlink()
    json_file, images = tmp_path / "set" / "a.json", tmp_path / "set" / "pictures"
    data = DataSpec(format="coco", train=str(json_file), val=[str(json_file)], images=str(images))
    return Spec(name="run", model="yolov5n", data=data)


@pytest.fixture
def run(tmp_path, spec) -> RunDirectory:
    """Its run, with copies of its inputs."""
    run = RunDirectory(tmp_path / "run")
    run.create()
    keep_inputs(run, spec)
    return run


def test_run_copies_what_a_dataset_yaml_would_have(spec, run, tmp_path):
    copy = yaml.safe_load((run.inputs / "dataset.yaml").read_text().partition("\n")[2])
    images = str(tmp_path / "set" / "pictures")
    assert copy == {
        "path": str(tmp_path / "set"),
        "train": [spec.data.train],
        "val": spec.data.val,
        "format": "coco",
        "images": {"train": images, "val": images, "test": images},
        "names": ["cat", "dog"],
    }
    assert source_of_run(run, spec.data) == run.inputs / "dataset.yaml"
    index = scan_split(read_inputs(run, spec).dataset, "train")
    assert [labels[:, 0].tolist() for labels in index.labels] == [[0], [1]]
    require_dataset_of_node(run, spec)


def test_other_classes_are_a_change_and_a_missing_file_is_none(spec, run, tmp_path):
    assert changed_inputs(run, spec) == []
    write_coco(tmp_path / "set", [one()], categories=[{"id": 3, "name": "cat"}, {"id": 7, "name": "fox"}])
    assert changed_inputs(run, spec) == ["data names[1] in the spec: dog -> fox"]
    (tmp_path / "set" / "a.json").unlink()
    assert changed_inputs(run, spec) == []
    assert not is_here(spec.data)


def test_dataset_is_read_without_a_run(spec):
    source = source_of(spec.data)
    assert isinstance(source, InlineDataset)
    dataset = load_dataset(source)
    assert (dataset.names, dataset.format, described(source)) == (("cat", "dog"), "coco", "data")
    assert (count_images(dataset, "train"), is_here(spec.data), is_of_each_node(spec.data)) == (2, True, False)
    missing = msgspec.structs.replace(spec.data, val="/gone.json")
    with pytest.raises(DataError, match=r"data: val: /gone\.json does not exist"):
        load_dataset(source_of(missing))


def test_dataset_on_the_nodes_has_names_in_the_spec(spec, tmp_path, monkeypatch):
    data = DataSpec(format="coco", train="$DISK/a.json", val="$DISK/a.json", images="$DISK/pictures", names=["dog"])
    assert is_of_each_node(data)
    assert not is_here(data)
    run = RunDirectory(tmp_path / "other")
    run.create()
    keep_inputs(run, msgspec.structs.replace(spec, data=data))
    monkeypatch.setenv("DISK", str(tmp_path / "set"))
    assert is_here(data)
    dataset = read_inputs(run, msgspec.structs.replace(spec, data=data)).dataset
    assert (dataset.is_on_nodes, dataset.names) == (True, ("dog",))
    assert scan_split(dataset, "train").num_images == 2
    assert CATEGORIES[1]["name"] == "dog"
