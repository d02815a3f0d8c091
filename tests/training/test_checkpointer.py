"""A full or failing disk: the last good checkpoint stays, and training continues with a warning."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked_runs import EPOCHS, EVERY_STEPS
from small_state import DESCRIPTION, save_small_state
from waiting import PATIENCE_S

from hpc_yolo.checkpoint.file import write_file
from hpc_yolo.checkpoint.state import header_texts
from hpc_yolo.checkpoint.store import newest_state
from hpc_yolo.core.errors import RunError
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import WarningRaised
from hpc_yolo.runs.journal import JournalWriter, read_events


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 8 MB and return its directory."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(2**12)):
            pass


def test_full_disk_keeps_last_checkpoint_and_journal_continues_later(small_disk, capsys):
    run = RunDirectory(small_disk / "run")
    run.create()
    save_small_state(run, 10)
    journal = JournalWriter(run.journal, attempt=1)
    journal.write(WarningRaised(message="before"))
    filler = small_disk / "filler"
    fill(filler)
    with pytest.raises(OSError, match="No space left"):
        save_small_state(run, 20, num_values=100_000)
    state = newest_state(run, pytest.fail)
    assert state is not None
    assert state.position.step == 10
    assert not list(run.checkpoints.glob(".*.part")), "no partial file is left"
    for number in range(3):
        journal.write(WarningRaised(message=f"meanwhile {number}" + "x" * 5000))
    assert capsys.readouterr().err.count("its events wait in memory") == 1
    filler.unlink()
    journal.write(WarningRaised(message="after"))
    messages = [event.message[:11] for event in read_events(run.journal)]
    assert messages == ["before", "meanwhile 0", "meanwhile 1", "meanwhile 2", "after"]


def test_run_on_full_disk_finishes_or_fails_with_one_message(small_disk):
    """Full for a while: a warning, and the run finishes. Full to the end: one message, and the checkpoint loads."""
    program = Path(__file__).parents[1] / "helpers" / "forked_runs.py"
    subprocess.run([sys.executable, str(program), str(small_disk), "disk"], check=True, timeout=PATIENCE_S)
    ends = {
        name: [attempt["ends"] for attempt in json.loads((small_disk / name / "attempts.json").read_text())]
        for name in ("full-for-a-while", "full")
    }
    assert ends == {"full-for-a-while": [{"0": 0}], "full": [{"0": RunError.exit_code}]}
    finished = newest_state(RunDirectory(small_disk / "full-for-a-while"), pytest.fail)
    assert finished is not None
    assert finished.position.step == EPOCHS * 5
    left = newest_state(RunDirectory(small_disk / "full"), pytest.fail)
    assert left is not None
    assert left.position.step == EVERY_STEPS
    output = (small_disk.parent / "full" / "output-0").read_text()
    (message,) = [line for line in output.splitlines() if "the state after step" in line]
    assert f"the last good checkpoint is state-0001-{EVERY_STEPS:09}.safetensors" in message
    assert "Traceback" not in output


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE])
@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_failed_write_keeps_previous_checkpoint(tmp_path, monkeypatch, number, operation):
    run = RunDirectory(tmp_path / "run")
    run.create()
    save_small_state(run, 10)

    def refuse(*_arguments):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as failing:
        failing.setattr(os, operation, refuse)
        with pytest.raises(OSError, match=os.strerror(number)):
            write_file(run.checkpoints / "state-0001-000000020.safetensors", {}, header_texts(DESCRIPTION))
    state = newest_state(run, pytest.fail)
    assert state is not None
    assert state.position.step == 10
    assert not list(run.checkpoints.glob(".*.part"))
