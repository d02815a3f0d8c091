"""A checkpoint that is not what was written is never loaded."""

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
    """One bit turned, or the end cut off; half of the bits in the header, which is the smaller part."""
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    if chance.random() < 0.2:
        return content[: chance.randrange(len(content))]
    position = chance.randrange(header_bytes if chance.random() < 0.5 else len(content))
    changed = bytearray(content)
    changed[position] ^= 1 << chance.randrange(8)
    return bytes(changed)


def test_a_thousand_bit_flips_and_cuts_are_all_noticed(run):
    save_small_state(run, 10, num_values=2000)
    (path,) = saved_states(run)
    content, chance = path.read_bytes(), random.Random(0)
    assert read_state(path).position.step == 10
    for _ in range(NUM_DAMAGES):
        path.write_bytes(damaged(content, chance))
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            read_state(path)


def test_the_checkpoint_before_a_damaged_one_is_taken_and_the_damaged_one_named_and_kept(run):
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
    assert newest_state(run, pytest.fail) is not None, "the next start has nothing to report"


def test_where_every_checkpoint_is_damaged_nothing_begins_from_scratch_by_itself(run):
    for step in (10, 20):
        save_small_state(run, step)
    for path in saved_states(run):
        path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="no checkpoint of this run is intact"):
            newest_state(run, pytest.fail)


def test_a_disk_that_cannot_be_read_is_not_taken_for_a_damaged_file(run, monkeypatch):
    """After a moment's trouble of a file system the newest checkpoint must still be there."""
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
    """An orphan on a lost node may publish late; what followed it is newer, whatever its step and its clock."""
    save_small_state(run, 20, attempt=2, keep=9)
    save_small_state(run, 30, attempt=1, keep=9)
    assert newest_state(run, pytest.fail).position.step == 20
