"""The `hpc-yolo weights` commands, weights of a spec, and the tensors that a run loads from them."""

import json
from pathlib import Path

import msgspec
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner, Result
from published_files import write_published

from hpc_yolo.checkpoint.file import FORMAT
from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.launch.weights import fetch_weights, with_located_weights
from hpc_yolo.runs.events import WeightsLoaded
from hpc_yolo.spec.hyperparameters import load_hyperparameters
from hpc_yolo.spec.model_config import load_config
from hpc_yolo.spec.schema import Spec
from hpc_yolo.training.model import build_model, model_origin
from hpc_yolo.weights.model_file import build_detector, read_model_file


def run_weights(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["weights", *map(str, arguments)])


def test_converted_file_has_same_model(tmp_path):
    source, target = tmp_path / "w.pt", tmp_path / "w.safetensors"
    write_published(source, change=lambda content, *_: content["model"].yaml.update(anchors=3))
    assert run_weights("convert", source).exit_code == 0
    before, after = read_model_file(source), read_model_file(target)
    assert (after.names, after.imgsz, after.config) == (before.names, before.imgsz, before.config)
    built = build_detector(after).state_dict()
    assert built.keys() == before.tensors.keys()
    assert all(torch.equal(tensor, built[name]) for name, tensor in before.tensors.items())


def test_conversion_does_not_overwrite_files(tmp_path):
    write_published(tmp_path / "w.pt")
    (tmp_path / "w.safetensors").write_text("mine")
    assert isinstance(run_weights("convert", tmp_path / "w.pt").exception, CheckpointError)
    result = run_weights("convert", tmp_path / "w.pt", "-o", tmp_path / "out.pt")
    assert result.exit_code == 2 and "must end with .safetensors" in result.output
    assert (tmp_path / "w.safetensors").read_text() == "mine"


def test_failed_write_of_converted_file_is_reported(tmp_path):
    write_published(tmp_path / "w.pt")
    error = run_weights("convert", tmp_path / "w.pt", "-o", tmp_path / "missing" / "w.safetensors").exception
    assert isinstance(error, CheckpointError) and "missing/w.safetensors: cannot be written: No such file" in str(error)


@pytest.mark.parametrize("command", ["show", "convert"])
def test_directory_instead_of_file_is_reported(command, tmp_path):
    error = run_weights(command, tmp_path).exception
    assert isinstance(error, CheckpointError) and "is a directory" in str(error) and "best.safetensors" in str(error)


def test_show_prints_content_as_table_and_json(tmp_path):
    write_published(tmp_path / "w.pt")
    assert "tensors  349" in run_weights("show", tmp_path / "w.pt").output
    content = json.loads(run_weights("show", tmp_path / "w.pt", "--json").output)
    assert (content["classes"], content["tensors"], content["imgsz"]) == (["a", "b", "c"], 349, 320)


def test_list_shows_paths_of_cached_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("HPC_YOLO_CACHE", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "yolov5m.pt").write_bytes(b"")
    lines = dict(line.split() for line in run_weights("list").output.splitlines())
    assert lines.pop("yolov5m.pt") == str(tmp_path / "weights" / "yolov5m.pt")
    assert len(lines) == 9 and set(lines.values()) == {"-"}


@pytest.mark.parametrize("header", [{"format": FORMAT}, {"format": FORMAT, "description": "{"}])
def test_checkpoint_with_damaged_header_is_refused(tmp_path, header):
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors", metadata=header)
    with pytest.raises(CheckpointError, match=r"its header (has no|does not)"):
        read_model_file(tmp_path / "w.safetensors")


def spec_with(weights: Path, **fields) -> Spec:
    return msgspec.convert({"name": "a", "data": {"path": "d.yaml"}, "weights": str(weights), **fields}, Spec)


def test_published_weights_of_spec_are_located_in_cache(tmp_path, monkeypatch):
    """A cached file is checked and not fetched again; test_published.py tests the download."""
    monkeypatch.setenv("HPC_YOLO_CACHE", str(tmp_path / "cache"))
    spec = with_located_weights(spec_with(tmp_path / "yolov5n.pt"))
    assert Path(spec.weights) == tmp_path / "cache" / "weights" / "yolov5n.pt"
    Path(spec.weights).parent.mkdir(parents=True)
    write_published(Path(spec.weights))
    progress = []
    fetch_weights(spec.weights, lambda *amounts: progress.append(amounts))
    assert progress == [] and Path(f"{spec.weights}.sha256").exists()
    own = tmp_path / "own.pt"
    assert Path(with_located_weights(spec_with(own)).weights) == own


@pytest.mark.parametrize(
    ("model", "hyp", "kept", "num_tensors"),
    [("", {}, 343, 349), ("yolov5n", {}, 342, 349), ("", {"anchors": 3}, 342, 349), ("yolov5n-af", {}, 342, 432)],
    ids=["model of weights", "named model", "auto anchors", "another head"],
)
def test_run_with_weights_reports_how_many_tensors_fit(tmp_path, model, hyp, kept, num_tensors):
    """Anchors of the weights are used unless the spec has a model or anchors."""
    write_published(tmp_path / "w.pt", names=[str(number) for number in range(80)])
    spec = spec_with(tmp_path / "w.pt", model=model, train={"hyp_overrides": hyp})
    layers = load_config(spec.model) if spec.model else None
    origin = model_origin(spec.model, spec.weights, layers, load_hyperparameters(spec.train).anchors)
    emitted = []
    built = build_model(origin, spec.train, 3, torch.device("cpu"), emitted.append)
    assert emitted == [WeightsLoaded(path=str(tmp_path / "w.pt"), num_kept=kept, num_tensors=num_tensors)]
    weight = read_model_file(tmp_path / "w.pt").tensors["model.0.conv.weight"]
    assert torch.equal(built.state_dict()["model.0.conv.weight"], weight)
