"""`hpc-yolo data pack` and `data verify`, and the commands that take a packed set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from image_sets import add

from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import DataError
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.spec.load import load_spec


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)))


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A drawn dataset with one image that is left out."""
    data = write_shapes_dataset(tmp_path / "set", num_train=4, num_val=1, image_size=(96, 64))
    add(data.parent, "empty.jpg", b"")
    return data


def test_pack_says_what_was_packed_and_left_out(shapes, tmp_path):
    first = run("data", "pack", shapes, tmp_path / "new")
    assert first.stdout.startswith(f"{tmp_path}/new: train 4 images, val 1 image, ")
    assert first.stdout.endswith(" KiB in 6 files\n")
    assert "train: 1 image left out" in first.stderr
    again = run("data", "pack", shapes.parent, tmp_path / "new")
    assert again.stdout.endswith("; 5 images were packed already\n")


@pytest.mark.parametrize("written", ["0", "many", "-1"])
def test_size_of_shards_must_be_an_amount(shapes, tmp_path, written):
    refused = run("data", "pack", shapes, tmp_path / "new", "--shard-size", written)
    assert refused.exit_code == 2 and "is not an amount of memory" in refused.stderr


def test_verify_reports_damage_and_fails(shapes, tmp_path):
    run("data", "pack", shapes, tmp_path / "new")
    assert run("data", "verify", tmp_path / "new").stdout.endswith(": no damage\n")
    shard = tmp_path / "new" / "train-00000.tar"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    failed = run("data", "verify", tmp_path / "new", "--json")
    assert isinstance(failed.exception, DataError)
    assert "1 file of 5 damaged\n" in failed.exception.message
    result = json.loads(failed.stdout)
    assert result["files"] == 5 and "1 image: images/train/00000.jpg" in result["problems"][0]


@pytest.mark.parametrize("name", ["absent", "set"])
def test_verify_refuses_what_is_no_packed_set(shapes, tmp_path, name):
    refused = run("data", "verify", tmp_path / name)
    assert isinstance(refused.exception, DataError)
    assert "packed set" in refused.exception.message


def test_spec_takes_a_packed_set_even_of_the_name_of_a_shipped_dataset(shapes, tmp_path):
    run("data", "pack", shapes, tmp_path / "coco")
    (tmp_path / "spec.yaml").write_text("name: r\nmodel: yolov5n\ndata: coco\ncluster: {executor: local}\n")
    assert load_spec(tmp_path / "spec.yaml").data.path == str(tmp_path / "coco")


def test_pack_takes_the_dataset_of_a_spec(shapes, tmp_path):
    (tmp_path / "spec.yaml").write_text("name: r\nmodel: yolov5n\ndata: set/dataset.yaml\ncluster: {executor: local}\n")
    assert "train 4 images" in run("data", "pack", tmp_path / "spec.yaml", tmp_path / "new").stdout
