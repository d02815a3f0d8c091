"""Checkpoints with any numbers are read unchanged, and invalid ones are refused."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from hpc_yolo.checkpoint import ModelDescription, Position, load_model, read_state
from hpc_yolo.checkpoint import file as checkpoint_file
from hpc_yolo.checkpoint.file import FORMAT, read_texts, write_file
from hpc_yolo.checkpoint.state import header_texts, named_tensors
from hpc_yolo.checkpoint.store import newest_state, state_path
from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.runs.directory import RunDirectory

DESCRIPTION = ModelDescription(model="tiny", config={"anchors": [[1.5, 2.0]]}, names=["a", "Ä", "\ud800"], imgsz=32)
TENSORS = {"model.a": torch.tensor([1.0, math.nan, math.inf])}
NOT_FINITE = (math.nan, math.inf, -math.inf)


def parts_with(value: Any = None, step: int = 7) -> dict[str, dict[str, Any]]:
    return {
        "position": Position(step=step, finished_epochs=1).state_dict(),
        "model": {"layer.weight": torch.tensor([1.0, math.nan])},
        "optimizer": {"0.momentum_buffer": torch.tensor([2.0]), "scaler": {"scale": value}},
        "gradients": {},
    }


def write_parts(path: Path, parts: dict[str, dict[str, Any]]) -> None:
    write_file(path, dict(named_tensors(parts)), header_texts(DESCRIPTION, parts))


@pytest.mark.parametrize("value", [*NOT_FINITE, 0.1 + 0.2, 2e-17, [[1 / 3, math.nan], [5e300]], {"a": None}], ids=str)
def test_state_round_trips(tmp_path: Path, value: Any) -> None:
    path, parts = tmp_path / "state.safetensors", parts_with(value)
    write_parts(path, parts)
    state = read_state(path)
    assert repr(state.parts) == repr({**parts, **state.parts})  # NaN is not equal to itself
    assert state.parts.keys() == parts.keys(), "a part without values is included"
    assert (state.position, state.description) == (Position(7, 1), DESCRIPTION)
    assert sorted(state.tensors) == ["model.layer.weight", "optimizer.0.momentum_buffer"]


@pytest.mark.parametrize("number", NOT_FINITE, ids=str)
def test_weights_with_nonfinite_number_in_config_are_readable(tmp_path: Path, number: float) -> None:
    description = msgspec.structs.replace(DESCRIPTION, config={"anchors": [[number]], "slope": number})
    path = tmp_path / "best.safetensors"
    write_file(path, TENSORS, header_texts(description))
    assert repr(load_model(path)[1]) == repr(description)


def test_weights_of_training_state_are_those_of_ema(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    write_parts(path, {**parts_with(), "ema": {"layer.weight": torch.tensor([3.0]), "updates": 4}})
    assert load_model(path)[0] == {"layer.weight": torch.tensor([3.0])}


def test_file_of_weights_is_refused_as_state(tmp_path: Path) -> None:
    write_file(tmp_path / "best.safetensors", TENSORS, header_texts(DESCRIPTION))
    with pytest.raises(CheckpointError, match="holds weights only"):
        read_state(tmp_path / "best.safetensors")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"position": 3}',
        '{"position": {"step": "x"}}',
        '{"position": {"step": NaN}}',
        "[" * 100_000,
    ],
)
def test_header_without_position_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.safetensors"
    write_file(path, TENSORS, header_texts(DESCRIPTION) | {"values": text})
    with pytest.raises(CheckpointError, match="holds no position of a training"):
        read_state(path)


def test_state_of_another_version_is_refused_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not damaged, and must neither be set aside nor be replaced by an older one."""
    run = RunDirectory(tmp_path / "run")
    run.create()
    path = state_path(run, attempt=1, step=7)
    with monkeypatch.context() as earlier:
        earlier.setattr(checkpoint_file, "FORMAT", "hpc-yolo-3")
        write_parts(path, parts_with())
    write_parts(state_path(run, attempt=1, step=3), parts_with(step=3))
    with pytest.raises(CheckpointError) as refused:
        newest_state(run, pytest.fail)
    expected = (
        f"{path}: was written by another version of hpc-yolo: its format is 'hpc-yolo-3', this one reads '{FORMAT}'"
    )
    assert refused.value.message == expected
    assert path.exists()


def test_unreadable_file_does_not_replace_previous_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that loses bytes without an error must not damage the previous state."""
    path = tmp_path / "state.safetensors"
    write_parts(path, parts_with(step=1))

    def damaged(temporary: Path) -> dict[str, str]:
        with open(temporary, "r+b") as file:
            os.truncate(file.fileno(), 20)
        return read_texts(temporary)

    monkeypatch.setattr(checkpoint_file, "read_texts", damaged)
    with pytest.raises(OSError, match="cannot be read back") as caught:
        write_parts(path, parts_with(step=2))
    assert caught.value.errno == errno.EIO
    monkeypatch.undo()
    assert read_state(path).position.step == 1
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
