"""Damaged checkpoints are detected and not loaded."""

from __future__ import annotations

import random
import re

import pytest
from small_state import save_small_state

from hpc_yolo.checkpoint import read_state
from hpc_yolo.checkpoint.store import newest_state, saved_states
from hpc_yolo.core.errors import CheckpointError

NUM_DAMAGES = 1000


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Flip one bit or truncate the content; half of the flipped bits are in the header."""
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    if chance.random() < 0.2:
        return content[: chance.randrange(len(content))]
    position = chance.randrange(header_bytes if chance.random() < 0.5 else len(content))
    changed = bytearray(content)
    changed[position] ^= 1 << chance.randrange(8)
    return bytes(changed)


def test_bit_flips_and_truncations_are_detected(run):
    save_small_state(run, 10, num_values=2000)
    (path,) = saved_states(run)
    content, chance = path.read_bytes(), random.Random(0)
    assert read_state(path).position.step == 10
    for _ in range(NUM_DAMAGES):
        path.write_bytes(damaged(content, chance))
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            read_state(path)


def test_damaged_checkpoint_is_reported_and_previous_is_loaded(run):
    for step in (10, 20):
        save_small_state(run, step)
    newest, _ = saved_states(run)
    newest.write_bytes(newest.read_bytes()[:-1])
    reports: list[str] = []
    state = newest_state(run, reports.append)
    assert state is not None
    assert state.position.step == 10
    (message,) = reports
    assert str(newest) in message
    assert "resumes from step 10" in message
    assert newest.with_name(f"{newest.name}.damaged").exists()
    assert newest_state(run, pytest.fail) is not None, "the next attempt reports nothing"


def test_run_with_damaged_checkpoints_only_is_refused(run):
    for step in (10, 20):
        save_small_state(run, step)
    for path in saved_states(run):
        path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="no checkpoint of this run is intact"):
            newest_state(run, pytest.fail)


def test_read_error_does_not_set_checkpoint_aside(run, monkeypatch):
    """After a temporary failure of the file system the newest checkpoint must be loaded."""
    for step in (10, 20):
        save_small_state(run, step)

    def unreadable(*_args, **_more):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("safetensors.safe_open", unreadable)
    with pytest.raises(CheckpointError, match="Input/output error"):
        newest_state(run, pytest.fail)
    monkeypatch.undo()
    assert newest_state(run, pytest.fail).position.step == 20


def test_states_are_ordered_by_attempt_before_step(run):
    """A process on a lost node may write a state late; states of later attempts are newer, whatever their step."""
    save_small_state(run, 20, attempt=2, keep=9)
    save_small_state(run, 30, attempt=1, keep=9)
    assert newest_state(run, pytest.fail).position.step == 20
