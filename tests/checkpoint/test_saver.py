"""After a power cut at any moment of a save, the run opens with the new checkpoint or with the one before it.

The method is that of ALICE (OSDI '14): record what a save does to the file system, build the states that a crash may
leave (names whose directory was not synced may be missing, in any combination; contents that were not synced may be
empty, cut off, full of zeros, or whole), and open every one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import stat
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from small_state import save_small_state

from hpc_yolo.checkpoint.store import newest_state
from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.runs.directory import RunDirectory

NUM_STATES = 2000
SAVED_STEPS = (10, 20, 30)  # keeping two, the last save removes the first state
DIRECTORY_SYNCED = ("directory synced", "", "")


@dataclass
class Recorder:
    """What happens in one directory, in order. Contents are kept by file, names by operation."""

    directory: Path
    operations: list[tuple[str, str, str]] = field(default_factory=list)  # (what, name, other name)
    contents: dict[str, bytes] = field(default_factory=dict)  # of each file by the name it was created under

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real_open, real_fsync = os.open, os.fsync
        real = {name: getattr(os, name) for name in ("replace", "rename", "unlink", "symlink")}

        def recorded_open(path, flags, *rest, **more):
            descriptor = real_open(path, flags, *rest, **more)
            if flags & os.O_CREAT and Path(path).parent == self.directory:
                self.operations.append(("created", Path(path).name, ""))
            return descriptor

        def recorded_fsync(descriptor):
            real_fsync(descriptor)
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                self.operations.append(DIRECTORY_SYNCED)
            else:
                self.contents[path.name] = path.read_bytes()
                self.operations.append(("content synced", path.name, ""))

        def recorded(name):
            def call(first, *rest, **more):
                if name == "symlink":
                    self.operations.append((name, Path(rest[0]).name, os.fspath(first)))
                elif os.path.lexists(first):
                    self.operations.append((name, Path(first).name, Path(rest[0]).name if rest else ""))
                return real[name](first, *rest, **more)

            return call

        monkeypatch.setattr(os, "open", recorded_open)
        monkeypatch.setattr(os, "fsync", recorded_fsync)
        for name in real:
            monkeypatch.setattr(os, name, recorded(name))


@pytest.fixture
def recorded(tmp_path, monkeypatch) -> tuple[Recorder, list[int]]:
    """The operations of three saves, and how many of them there were after each."""
    run = RunDirectory(tmp_path / "recorded")
    run.create()
    recorder = Recorder(run.checkpoints)
    with monkeypatch.context() as patched:
        recorder.install(patched)
        ends = []
        for step in SAVED_STEPS:
            save_small_state(run, step)
            ends.append(len(recorder.operations))
    assert {what for what, _, _ in recorder.operations} == {
        *("created", "content synced", "directory synced", "replace", "rename", "unlink", "symlink")
    }, "everything that a save does is seen"
    return recorder, ends


def crash_states(recorder: Recorder, crash_at: int, random: random.Random):
    """States after the first `crash_at` operations: {name: ("file", content) or ("link", target)}."""
    done = recorder.operations[:crash_at]
    last_sync = max((number for number, what in enumerate(done) if what == DIRECTORY_SYNCED), default=-1)
    certain, doubtful = done[: last_sync + 1], [item for item in done[last_sync + 1 :] if item[0] != "content synced"]
    synced = {name for what, name, _ in done if what == "content synced"}
    for kept in itertools.product((True, False), repeat=len(doubtful)):
        survivors = [operation for operation, is_kept in zip(doubtful, kept, strict=True) if is_kept]
        names: dict[str, tuple[str, str]] = {}
        for what, name, other in (*certain, *survivors):
            if what == "created":
                names[name] = ("file", name)
            elif what == "symlink":
                names[name] = ("link", other)
            elif what == "unlink":
                names.pop(name, None)
            elif what in ("replace", "rename"):
                moved = names.pop(name, None) or (("file", name) if name in recorder.contents else None)
                if moved is not None:
                    names[other] = moved
        yield {
            name: (kind, after_crash(recorder.contents[source], source in synced, random) if kind == "file" else source)
            for name, (kind, source) in names.items()
        }


def after_crash(content: bytes, is_synced: bool, random: random.Random) -> bytes:
    if is_synced:
        return content
    cut = random.randrange(len(content))
    return random.choice([b"", content[:cut], content[:cut] + bytes(len(content) - cut), bytes(len(content)), content])


def open_every_state(recorder: Recorder, ends: list[int], run: RunDirectory, report):
    """Build and open the states of every moment of every save: yields (the save's number, step found or None)."""
    chance = random.Random(0)
    for crash_at in range(1, ends[-1] + 1):
        save = next(number for number, end in enumerate(ends) if crash_at <= end)
        for state in crash_states(recorder, crash_at, chance):
            for path in run.checkpoints.iterdir():
                path.unlink()
            for name, (kind, content) in state.items():
                path = run.checkpoints / name
                path.write_bytes(content) if kind == "file" else path.symlink_to(content)
            opened = newest_state(run, report)
            if opened is not None:
                assert all((tensor == opened.position.step).all() for tensor in opened.tensors.values())
            yield save, None if opened is None else opened.position.step


def test_every_state_that_a_crash_may_leave_opens_as_the_new_checkpoint_or_the_one_before(recorded, tmp_path):
    recorder, ends = recorded
    run = RunDirectory(tmp_path / "crashed")
    run.create()
    seen: list[int | None] = []
    while len(seen) < NUM_STATES:
        for save, step in open_every_state(recorder, ends, run, report=pytest.fail):
            assert step in ((None, *SAVED_STEPS)[save], SAVED_STEPS[save])
            seen.append(step)
    assert set(seen) == {None, *SAVED_STEPS}, "states before and after each save were among them"


def test_a_save_that_did_not_sync_its_file_would_be_found_out(recorded, tmp_path):
    """The method can fail."""
    recorder, ends = recorded
    recorder.operations = [item if item[0] != "content synced" else ("nothing", "", "") for item in recorder.operations]
    run = RunDirectory(tmp_path / "crashed")
    run.create()
    damaged: list[str] = []
    with contextlib.suppress(CheckpointError):  # where the first state is the damaged one
        for _ in open_every_state(recorder, ends, run, damaged.append):
            pass
        pytest.fail("every state opened")
