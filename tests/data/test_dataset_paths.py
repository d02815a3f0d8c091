"""Datasets whose paths have variables: read with the values of this machine, and kept as written in the run's copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hpc_yolo.core.errors import DataError, NameTakenError
from hpc_yolo.data.dataset import dataset_content, load_dataset
from hpc_yolo.data.dataset_source import readable_dataset, source_of_run
from hpc_yolo.data.run_inputs import (
    changed_inputs,
    gather_inputs,
    keep_inputs,
    read_inputs,
    require_dataset_of_node,
    require_same_dataset,
    store_inputs,
)
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.train import TrainSpec

NAMES = {"names": ["cat", "dog"]}


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the local disk $DISK of a node, with a dataset without its YAML in set/."""
    directory = tmp_path / "disk"
    for split in ("a", "b", "../beside/c"):
        (directory / "set" / split).mkdir(parents=True)
    monkeypatch.setenv("DISK", str(directory))
    monkeypatch.delenv("NOPE", raising=False)
    return directory


def write(file: Path, **content: Any) -> Path:
    file.write_text(yaml.safe_dump(NAMES | {"train": "a", "val": "b"} | content))
    return file


@pytest.mark.parametrize(
    ("data", "content", "root", "train"),
    [
        ("$DISK/set/data.yaml", {}, "$DISK/set", ["a"]),
        ("$DISK/set/data.yaml", {"path": "."}, "$DISK/set", ["a"]),
        ("$DISK/data.yaml", {"path": "{disk}/set"}, "$DISK/set", ["a"]),
        ("$DISK/set/data.yaml", {"train": "{disk}/set/a"}, "$DISK/set", ["a"]),
        ("{disk}/data.yaml", {"path": "$DISK/set"}, "$DISK/set", ["a"]),
        ("{disk}/data.yaml", {"path": "$NOPE/set", "train": ["a", "../images"]}, "$NOPE/set", ["a", "../images"]),
        ("{disk}/set/data.yaml", {"train": ["a", "$DISK/beside/c"]}, "{disk}/set", ["{disk}/set/a", "$DISK/beside/c"]),
        ("{disk}/set/data.yaml", {}, "{disk}/set", ["{disk}/set/a"]),
    ],
)
def test_copy_of_dataset_yaml_keeps_variables(
    disk: Path, data: str, content: dict[str, Any], root: str, train: list[str]
) -> None:
    def here(value: Any) -> Any:
        return [here(item) for item in value] if isinstance(value, list) else value.format(disk=disk)

    written = here(data)
    file = write(Path(written.replace("$DISK", str(disk))), **{key: here(value) for key, value in content.items()})
    copied = dataset_content(Path(written))
    assert (copied["path"], copied["train"]) == (here(root), here(train))
    copy = write(disk / "copy.yaml", **copied)
    assert dataset_content(copy) == copied, "a copy of the copy is the same"
    if "$NOPE" not in root:
        loaded = load_dataset(copy)
        assert loaded.is_on_nodes == ("$" in written or any("$" in str(value) for value in content.values()))
        assert (loaded.root, loaded.train) == (load_dataset(file).root, load_dataset(file).train)
        assert all(path.is_dir() for path in loaded.train)


def test_copy_leads_to_disk_of_each_job(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(disk / "set" / "data.yaml")
    run, spec = (
        RunDirectory(tmp_path / "run"),
        Spec(name="run", model="yolov5n", data=DataSpec(path="$DISK/set/data.yaml")),
    )
    run.create()
    keep_inputs(run, spec)
    disk.rename(tmp_path / "disk.2")
    monkeypatch.setenv("DISK", str(tmp_path / "disk.2"))
    require_dataset_of_node(run, spec)
    require_same_dataset(run, spec)
    assert load_dataset(source_of_run(run, spec.data)).train == (tmp_path / "disk.2" / "set" / "a",)
    write(tmp_path / "disk.2" / "set" / "data.yaml", names=["cat", "fox"])
    with pytest.raises(DataError, match=r"the dataset on \S+ is not that of the run \(data names\[1\] .*dog -> fox\)"):
        require_same_dataset(run, spec)
    monkeypatch.delenv("DISK")
    assert readable_dataset(spec.data.path) is None
    assert changed_inputs(run, spec) == [], "where nothing can be compared, as at the next submission"


def test_other_inputs_are_copied_at_submission(disk: Path, tmp_path: Path) -> None:
    """Hyperparameters that are edited while the job waits do not count."""
    hyp = tmp_path / "hyp.yaml"
    hyp.write_text("lr0: 0.5\n")
    spec = Spec(name="run", model="yolov5n", data=DataSpec(path="$DISK/set/data.yaml"), train=TrainSpec(hyp=str(hyp)))
    run = RunDirectory(tmp_path / "run")
    run.create()
    store_inputs(run, gather_inputs(run, spec, with_dataset=False))
    assert source_of_run(run, spec.data) == Path(spec.data.path)
    hyp.write_text("lr0: 0.1\n")
    write(disk / "set" / "data.yaml")
    for _ in range(2):
        keep_inputs(run, spec)
    inputs = read_inputs(run, spec)
    assert (inputs.hyperparameters.lr0, inputs.dataset.names) == (0.5, ("cat", "dog"))


def test_of_two_commands_that_copy_the_inputs_at_once_the_second_is_refused(disk: Path, tmp_path: Path) -> None:
    """It reported a directory that could not be written, as if something were wrong with the disk."""
    write(disk / "set" / "data.yaml")
    spec = Spec(name="run", model="yolov5n", data=DataSpec(path=str(disk / "set" / "data.yaml")))
    run = RunDirectory(tmp_path / "run")
    run.create()
    files = gather_inputs(run, spec)
    keep_inputs(run, spec)
    with pytest.raises(NameTakenError, match="another command submits this run"):
        store_inputs(run, files)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("$NOPE/data.yaml", r"data: \$NOPE/data.yaml: the variable NOPE is not set on \S+$"),
        ("$DISK/data.yaml", r"there is no dataset \S+/disk/data.yaml, .* on \S+$"),
        ("$DISK/set/data.yaml", r"val: \S+/disk/set/gone does not exist on \S+$"),
        ("{disk}/set/data.yaml", r"val: \S+/disk/set/gone does not exist on \S+$"),
    ],
)
def test_missing_dataset_of_node_is_one_sentence(disk: Path, tmp_path: Path, data: str, message: str) -> None:
    write(disk / "set" / "data.yaml", val="gone")
    spec = Spec(name="run", model="yolov5n", data=DataSpec(path=data.format(disk=disk)))
    with pytest.raises(DataError) as caught:
        require_dataset_of_node(RunDirectory(tmp_path / "run"), spec)
    assert len(caught.value.message.splitlines()) == 1
    with pytest.raises(DataError, match=message):
        raise DataError(caught.value.message)
