"""Every stateful object of the training context is saved in the checkpoint and restored from it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from spec_runs import NETWORK

from hpc_yolo.checkpoint import Stateful, restore
from hpc_yolo.checkpoint.state import read_state
from hpc_yolo.checkpoint.store import saved_states
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.distributed import World
from hpc_yolo.resilience.stop_signal import StopRequest
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.checkpoint import CheckpointSpec
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.training.build import build
from hpc_yolo.training.context import TrainingContext
from hpc_yolo.training.trainer import Trainer

PARTS = ["identity", "position", "model", "gradients", "ema", "optimizer", "meter", "evaluations", "nan_guard"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Iterator[Trainer]:
    """Return a trainer after three steps, with accumulated gradients for the next optimiser step."""
    directory = tmp_path_factory.mktemp("run")
    spec = Spec(
        name="parts",
        model=str(NETWORK),
        data=DataSpec(path=str(write_shapes_dataset(directory / "shapes", num_train=8, num_val=2))),
        train=TrainSpec(epochs=1, batch=2, imgsz=64, workers=0, precision="fp16", on_nonfinite="skip"),
        checkpoint=CheckpointSpec(every_s=None),
    )
    run = RunDirectory(directory / "parts")
    run.create()
    world = World(ProcessInfo(0, 0, 0, 1, 1, 1, "127.0.0.1", None, "single"), torch.device("cpu"), ())
    context = build(spec, world, run, emit=lambda _event: None)
    trainer = Trainer(context, world, run, None, StopRequest())
    context.trained.train()
    for batch, _ in zip(context.training.epoch(0), range(3), strict=False):
        trainer.train_step(batch)
        context.position.step += 1
    context.evaluations.class_maps = [0.25, 0.5]
    context.evaluations.waiting = [0]
    context.nan_guard.bad_steps.append(1)
    with trainer.checkpointer:
        yield trainer


@pytest.fixture
def context(trained: Trainer) -> Iterator[TrainingContext]:
    """Return the context after these steps; its state is restored after the test."""
    before = snapshot(trained.context)
    yield trained.context
    for name, part in trained.context.stateful_parts.items():
        part.load_state_dict(before[name])


def snapshot(context: TrainingContext) -> dict[str, dict[str, Any]]:
    return copy.deepcopy({name: part.state_dict() for name, part in context.stateful_parts.items()})


def saved(trainer: Trainer) -> Path:
    """Save the state and return the path of the file."""
    trainer.checkpointer.save_state()
    trainer.checkpointer.finish()
    return saved_states(trainer.run_directory)[0]


def changed(value: Any) -> Any:
    """Return another value of the same kind and shape."""
    if isinstance(value, torch.Tensor):
        return ~value if value.dtype is torch.bool else value + 1
    if isinstance(value, dict):
        return {name: changed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [changed(item) for item in value]
    return value + "x" if isinstance(value, str) else value + 1


def is_equal(one: Any, other: Any) -> bool:
    """Return whether two states are the same, bit for bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_equal(one[name], other[name]) for name in one)
    return bool(one == other)


def test_every_stateful_object_is_in_checkpoint(context) -> None:
    """The wrapped model is the model, and the loss uses the anchors of the head."""
    stateful = {
        field.name for field in dataclasses.fields(context) if hasattr(getattr(context, field.name), "load_state_dict")
    }
    parts = {id(part) for part in context.stateful_parts.values()}
    assert [name for name in sorted(stateful) if id(getattr(context, name)) not in parts] == ["loss"]
    assert context.loss.anchors.data_ptr() == context.model.head.anchors.data_ptr()
    assert list(context.stateful_parts) == PARTS


@pytest.mark.parametrize("name", [name for name in PARTS if name != "identity"])
def test_changed_state_changes_checkpoint_and_is_restored(trained, context, name) -> None:
    part: Stateful = context.stateful_parts[name]
    state = copy.deepcopy(part.state_dict())
    assert state, "an empty state tests nothing"
    path = saved(trained)
    content, before = path.read_bytes(), read_state(path)
    tensors = [key for key, value in state.items() if isinstance(value, torch.Tensor)]
    for key in (*tensors[:1], *tensors[-1:], *(state.keys() - set(tensors))):
        part.load_state_dict({**copy.deepcopy(state), key: changed(state[key])})
        assert not is_equal(part.state_dict(), state), f"{key} is not in the state"
        if key != "step":  # which names the file
            assert saved(trained).read_bytes() != content, f"{key} is not in the checkpoint"
        if name == "nan_guard":
            context.nan_guard.bad_steps = []  # steps found later stay after a restore
        restore(context.stateful_parts, before)
        assert is_equal(snapshot(context), {**snapshot(context), name: state}), f"{key} is not restored"


@pytest.mark.parametrize("key", ["num_images", "spec_digest", "inputs_digest"])
def test_state_of_another_run_is_refused(trained, context, key) -> None:
    state = read_state(saved(trained))
    state.parts["identity"][key] = changed(state.parts["identity"][key])
    before = snapshot(context)
    with pytest.raises(CheckpointError, match=f"{state.path}: was "):
        restore(context.stateful_parts, state)
    assert is_equal(snapshot(context), before), "the context is unchanged"


def test_state_of_another_model_is_refused(trained, context) -> None:
    state = read_state(saved(trained))
    state.parts["model"].popitem()
    with pytest.raises(CheckpointError, match="does not fit this run's model: model: Error"):
        restore(context.stateful_parts, state)
