"""`hpc-yolo weights` and weights of a spec, as people type them, and what a run then begins with."""

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
from hpc_yolo.spec.schema import Spec
from hpc_yolo.training.model import build_model, model_origin
from hpc_yolo.weights.model_file import build_detector, read_model_file


def typed(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["weights", *map(str, arguments)])


def test_a_converted_file_is_the_same_network_and_holds_no_pickle(tmp_path):
    source, target = tmp_path / "w.pt", tmp_path / "w.safetensors"
    write_published(source, change=lambda content, *_: content["model"].yaml.update(anchors=3))
    assert typed("convert", source).exit_code == 0
    before, after = read_model_file(source), read_model_file(target)
    assert (after.names, after.imgsz, after.config) == (before.names, before.imgsz, before.config)
    built = build_detector(after).state_dict()
    assert built.keys() == before.tensors.keys()
    assert all(torch.equal(tensor, built[name]) for name, tensor in before.tensors.items())


def test_a_conversion_overwrites_nothing(tmp_path):
    write_published(tmp_path / "w.pt")
    (tmp_path / "w.safetensors").write_text("mine")
    assert isinstance(typed("convert", tmp_path / "w.pt").exception, CheckpointError)
    result = typed("convert", tmp_path / "w.pt", "-o", tmp_path / "out.pt")
    assert result.exit_code == 2 and "must end with .safetensors" in result.output
    assert (tmp_path / "w.safetensors").read_text() == "mine"


def test_what_is_in_a_file_is_shown_to_people_and_scripts(tmp_path):
    write_published(tmp_path / "w.pt")
    assert "tensors  349" in typed("show", tmp_path / "w.pt").output
    facts = json.loads(typed("show", tmp_path / "w.pt", "--json").output)
    assert (facts["classes"], facts["tensors"], facts["imgsz"]) == (["a", "b", "c"], 349, 320)


def test_the_list_says_which_are_here(tmp_path, monkeypatch):
    monkeypatch.setenv("HPC_YOLO_CACHE", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "yolov5m.pt").write_bytes(b"")
    lines = dict(line.split() for line in typed("list").output.splitlines())
    assert lines.pop("yolov5m.pt") == str(tmp_path / "weights" / "yolov5m.pt")
    assert len(lines) == 9 and set(lines.values()) == {"-"}


@pytest.mark.parametrize("header", [{"format": FORMAT}, {"format": FORMAT, "description": "{"}])
def test_a_checkpoint_with_a_damaged_header_is_refused(tmp_path, header):
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors", metadata=header)
    with pytest.raises(CheckpointError, match=r"its header (has no|does not)"):
        read_model_file(tmp_path / "w.safetensors")


def spec_with(weights: Path, **fields) -> Spec:
    return msgspec.convert({"name": "a", "data": "d.yaml", "weights": str(weights), **fields}, Spec)


def test_published_weights_of_a_spec_are_fetched_to_where_the_run_looks(tmp_path, monkeypatch):
    """What is there is not fetched again, only looked through; test_published.py has the server."""
    monkeypatch.setenv("HPC_YOLO_CACHE", str(tmp_path / "cache"))
    spec = with_located_weights(spec_with(tmp_path / "yolov5n.pt"))
    assert Path(spec.weights) == tmp_path / "cache" / "weights" / "yolov5n.pt"
    Path(spec.weights).parent.mkdir(parents=True)
    write_published(Path(spec.weights))
    told = []
    fetch_weights(spec.weights, lambda *amounts: told.append(amounts))
    assert told == [] and Path(f"{spec.weights}.sha256").exists()
    own = tmp_path / "own.pt"
    assert Path(with_located_weights(spec_with(own)).weights) == own


@pytest.mark.parametrize(
    ("model", "hyp", "kept"),
    [("", {}, 343), ("yolov5n", {}, 342), ("", {"anchors": 3}, 342)],
    ids=["the weights' own network", "a named one", "anchors to be found"],
)
def test_a_run_says_how_many_tensors_it_begins_with(tmp_path, model, hyp, kept):
    """Anchors of the weights are taken unless the network or its anchors were named."""
    write_published(tmp_path / "w.pt", names=[str(number) for number in range(80)])
    spec = spec_with(tmp_path / "w.pt", model=model, train={"hyp_overrides": hyp})
    origin = model_origin(spec.model, spec.weights, None, load_hyperparameters(spec.train).anchors)
    told = []
    network = build_model(origin, spec.train, 3, torch.device("cpu"), told.append)
    assert told == [WeightsLoaded(path=str(tmp_path / "w.pt"), num_kept=kept, num_tensors=349)]
    weight = read_model_file(tmp_path / "w.pt").tensors["model.0.conv.weight"]
    assert torch.equal(network.state_dict()["model.0.conv.weight"], weight)
