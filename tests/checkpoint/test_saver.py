"""After a power failure at any moment of a save, the new or the previous checkpoint is readable.

The method is that of ALICE (OSDI '14): record the file operations of a save, build the states that a crash may
leave (names whose directory was not synced may be missing, in any combination; contents that were not synced may be
empty, truncated, full of zeros, or complete), and open every one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from small_state import save_small_state

from hpc_yolo.checkpoint.saver import SaveRequest, StateSaver
from hpc_yolo.checkpoint.store import newest_state
from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.runs.directory import RunDirectory

NUM_STATES = 2000
SAVED_STEPS = (10, 20, 30)  # keeping two, the last save removes the first state
DIRECTORY_SYNCED = ("directory synced", "", "")


@dataclass
class Recorder:
    """File operations in one directory, in order, and the contents of its files."""

    directory: Path
    operations: list[tuple[str, str, str]] = field(default_factory=list)  # (operation, name, other name)
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
    """Return the recorder of three saves, and the number of operations after each."""
    run = RunDirectory(tmp_path / "recorded")
    run.create()
    recorder = Recorder(run.checkpoints)
    with monkeypatch.context() as patched:
        recorder.install(patched)
        ends = []
        for step in SAVED_STEPS:
            save_small_state(run, step)
            ends.append(len(recorder.operations))
    assert {operation for operation, _, _ in recorder.operations} == {
        *("created", "content synced", "directory synced", "replace", "rename", "unlink", "symlink")
    }, "all operations of a save are recorded"
    return recorder, ends


def crash_states(recorder: Recorder, crash_at: int, random: random.Random):
    """Yield states after the first `crash_at` operations: {name: ("file", content) or ("link", target)}."""
    done = recorder.operations[:crash_at]
    last_sync = max((number for number, operation in enumerate(done) if operation == DIRECTORY_SYNCED), default=-1)
    synced_operations, unsynced = (
        done[: last_sync + 1],
        [item for item in done[last_sync + 1 :] if item[0] != "content synced"],
    )
    synced = {name for operation, name, _ in done if operation == "content synced"}
    for kept in itertools.product((True, False), repeat=len(unsynced)):
        survivors = [operation for operation, is_kept in zip(unsynced, kept, strict=True) if is_kept]
        names: dict[str, tuple[str, str]] = {}
        for operation, name, other in (*synced_operations, *survivors):
            if operation == "created":
                names[name] = ("file", name)
            elif operation == "symlink":
                names[name] = ("link", other)
            elif operation == "unlink":
                names.pop(name, None)
            elif operation in ("replace", "rename"):
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
    """Open the states of every moment of every save: yield (number of the save, step found or None)."""
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


def test_every_state_after_crash_has_new_or_previous_checkpoint(recorded, tmp_path):
    recorder, ends = recorded
    run = RunDirectory(tmp_path / "crashed")
    run.create()
    steps: list[int | None] = []
    while len(steps) < NUM_STATES:
        for save, step in open_every_state(recorder, ends, run, report=pytest.fail):
            assert step in ((None, *SAVED_STEPS)[save], SAVED_STEPS[save])
            steps.append(step)
    assert set(steps) == {None, *SAVED_STEPS}, "the states include those before and after each save"


def test_save_without_sync_of_file_has_unreadable_state(recorded, tmp_path):
    """Shows that the test above detects a missing sync."""
    recorder, ends = recorded
    recorder.operations = [item if item[0] != "content synced" else ("nothing", "", "") for item in recorder.operations]
    run = RunDirectory(tmp_path / "crashed")
    run.create()
    damaged: list[str] = []
    with contextlib.suppress(CheckpointError):  # if the first state is the damaged one
        for _ in open_every_state(recorder, ends, run, damaged.append):
            pass
        pytest.fail("every state opened")


SAVE_BESIDE_TWO_THREADS = """
import os, sys
from pathlib import Path
import torch
from hpc_yolo.checkpoint.saver import SaveRequest, StateSaver

large = {"large": torch.ones(2**20)}
torch.add(large["large"], 1)
before, threads = os.listdir("/proc/self/task"), torch.get_num_threads()
with StateSaver() as saver:
    saver.save(SaveRequest(Path(sys.argv[1]), {}, large, {}, epoch=0, step=1))
    saver.wait()
    (result,) = saver.results()
    print(result.error, len(before), len(os.listdir("/proc/self/task")), threads, torch.get_num_threads())
"""


def test_save_starts_no_openmp_threads_and_leaves_those_of_training(tmp_path):
    """A second team makes more threads than cores, and from then on every barrier of a training step sleeps."""
    command = [sys.executable, "-c", SAVE_BESIDE_TWO_THREADS, str(tmp_path / "state")]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "2"}, capture_output=True, text=True, check=True
    )
    error, before, after, threads, threads_after = done.stdout.split()
    assert (error, int(after)) == ("None", int(before) + 1), "one thread more, which saves"
    assert threads_after == threads


class OnGpu(torch.Tensor):
    """A tensor that says that it is on a GPU."""

    is_cuda = True


def test_model_kept_on_the_host_is_saved_with_its_own_weights_after_one_of_a_gpu(tmp_path, monkeypatch):
    """After the last step nothing waits for the copy from the GPU: best was written with the weights of that copy."""

    def copied(saver: StateSaver, request: SaveRequest) -> SimpleNamespace:
        saver._copies.buffers |= {name: torch.Tensor(tensor.tolist()) for name, tensor in request.stable.items()}
        return SimpleNamespace(synchronize=lambda: None)

    monkeypatch.setattr(StateSaver, "_begin_device_copy", copied)
    models = {"epoch2": torch.zeros(3).as_subclass(OnGpu), "best": torch.ones(3)}
    with StateSaver() as saver:
        for name, weight in models.items():
            saver.save(SaveRequest(tmp_path / name, {}, {"weight": weight}, {}, epoch=0, step=1))
        saver.wait()
        assert [result.error for result in saver.results()] == [None, None]
    saved = {name: safetensors.torch.load_file(tmp_path / name)["weight"].tolist() for name in models}
    assert saved == {"epoch2": [0, 0, 0], "best": [1, 1, 1]}
