"""`hpc-yolo bench scaling`: runs with one and two CPU ranks, submitted here as any run, become a table."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import SpecError
from hpc_yolo.data.synth import write_shapes_dataset


@pytest.fixture
def spec_path(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    data = write_shapes_dataset(tmp_path / "set", num_train=16, num_val=4, image_size=(64, 48))
    path = tmp_path / "spec.yaml"
    path.write_text(
        f"name: small\nmodel: yolov5n\ndata: {data}\noutput: {tmp_path / 'runs'}\n"
        "cluster: {executor: local, gpus_per_node: 0}\n"
        "train: {epochs: 9, batch: 4, imgsz: 64, workers: 1, device: cpu, autoanchor: false}\n"
    )
    return path


def call(*arguments):
    return CliRunner().invoke(cli, ["bench", "scaling", *map(str, arguments)])


@pytest.mark.soak
def test_runs_of_one_and_two_ranks_are_measured_once(spec_path, tmp_path):
    done = call(spec_path, "--ranks", "1,2", "--epochs", 2, "--json")
    assert done.exit_code == 0, done.output
    one, two = json.loads(done.stdout)
    assert [row["row"]["batch"] for row in (one, two)] == [4, 8]
    assert [row["row"]["ranks"] for row in (one, two)] == [1, 2]
    assert (one["efficiency"], one["communication"]) == (1.0, 0.0)
    assert two["ring_bytes"] > 1e6
    assert all(row["images_per_s"] > 0 and row["row"]["val_s"] > 0 for row in (one, two))
    assert {path.name for path in (tmp_path / "runs" / "small-scaling").iterdir()} == {"1-ranks", "2-ranks"}

    again = call(spec_path, "--ranks", "1,2", "--epochs", 2, "--bandwidth", 1)
    assert again.exit_code == 0, again.output
    assert again.output.count("measured before") == 2
    assert "efficiency" in again.output and "limit" in again.output


def test_ranks_are_checked_before_anything_is_submitted(spec_path, tmp_path):
    assert call(spec_path, "--ranks", "1,x").exit_code == 2
    assert isinstance(call(spec_path, "--ranks", "3", "--same-batch").exception, SpecError)
    assert not (tmp_path / "runs").exists()
