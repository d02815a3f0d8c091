"""What a checkpoint's header says is read back as it was, whatever the numbers are."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from hpc_yolo.checkpoint import ModelDescription, Progress, load_model, read_state
from hpc_yolo.checkpoint import file as checkpoint_file
from hpc_yolo.checkpoint.file import read_texts, write_file
from hpc_yolo.checkpoint.state import texts_of
from hpc_yolo.core.errors import CheckpointError

DESCRIPTION = ModelDescription(model="tiny", config={"anchors": [[1.5, 2.0]]}, names=["a", "Ä", "\ud800"], imgsz=32)
TENSORS = {"model.a": torch.tensor([1.0, math.nan, math.inf])}
NOT_FINITE = (math.nan, math.inf, -math.inf)
# Every field that holds a float, by the value that has one in it.
FLOATS: dict[str, Any] = {
    "best_fitness": lambda value: value,
    "grad_norm": lambda value: value,
    "rank_items": lambda value: [[1.0, value, 3.0], [value] * 3],
    "class_maps": lambda value: [0.5, value],
    "scaler": lambda value: {"scale": value, "_growth_tracker": 3},
}


def is_float_inside(kind: object) -> bool:
    return kind is float or any(map(is_float_inside, getattr(kind, "__args__", ())))


def test_the_table_has_every_field_that_holds_a_float() -> None:
    fields = {field.name for field in msgspec.structs.fields(Progress) if is_float_inside(field.type)}
    assert fields == FLOATS.keys()


@pytest.mark.parametrize("number", NOT_FINITE, ids=str)
@pytest.mark.parametrize("field", FLOATS)
def test_a_number_that_is_not_finite_is_read_as_what_it_was(tmp_path: Path, field: str, number: float) -> None:
    progress = Progress(attempt=2, step=7, **{field: FLOATS[field](number)})
    path = tmp_path / "state.safetensors"
    write_file(path, TENSORS, texts_of(DESCRIPTION, progress))
    state = read_state(path)
    assert repr(state.progress) == repr(progress)  # a NaN equals nothing
    assert state.description == DESCRIPTION


@pytest.mark.parametrize("number", NOT_FINITE, ids=str)
def test_a_config_with_such_a_number_does_not_spoil_the_weights(tmp_path: Path, number: float) -> None:
    description = msgspec.structs.replace(DESCRIPTION, config={"anchors": [[number]], "slope": number})
    path = tmp_path / "best.safetensors"
    write_file(path, TENSORS, texts_of(description, None))
    assert repr(load_model(path)[1]) == repr(description)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"grad_norm": None}, Progress(grad_norm=math.nan)),
        ({"rank_items": [[None, 1]]}, Progress(rank_items=[[math.nan, 1.0]])),
        ({"class_maps": [None]}, Progress(class_maps=[math.nan])),
        ({"scaler": {"scale": None}}, Progress(scaler={"scale": math.nan})),
        ({"best_fitness": None, "step": 3}, Progress(best_fitness=math.nan, step=3)),
        ({"a field of a later version": [1]}, Progress()),
    ],
)
def test_null_of_an_earlier_version_is_not_a_number(
    tmp_path: Path, written: dict[str, Any], expected: Progress
) -> None:
    path = tmp_path / "state.safetensors"
    texts = texts_of(DESCRIPTION, None) | {"progress": json.dumps(written)}
    write_file(path, TENSORS, texts)
    assert repr(read_state(path).progress) == repr(expected)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"step": "x"}', '{"step": NaN}', "[" * 100_000])
def test_a_header_that_says_nothing_of_the_progress_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.safetensors"
    write_file(path, TENSORS, texts_of(DESCRIPTION, None) | {"progress": text})
    with pytest.raises(CheckpointError, match="does not say where training stands"):
        read_state(path)


def test_what_cannot_be_read_back_is_never_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that loses bytes in silence costs this save, and not the state that was saved before."""
    path = tmp_path / "state.safetensors"
    write_file(path, TENSORS, texts_of(DESCRIPTION, Progress(step=1)))

    def damaged(temporary: Path) -> dict[str, str]:
        with open(temporary, "r+b") as file:
            os.truncate(file.fileno(), 20)
        return read_texts(temporary)

    monkeypatch.setattr(checkpoint_file, "read_texts", damaged)
    with pytest.raises(OSError, match="cannot be read back") as caught:
        write_file(path, TENSORS, texts_of(DESCRIPTION, Progress(step=2)))
    assert caught.value.errno == errno.EIO
    monkeypatch.undo()
    assert read_state(path).progress.step == 1
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
