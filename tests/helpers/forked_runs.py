"""Train a small model with forked ranks that real signals interrupt; a program.

    python forked_runs.py DIRECTORY NUM_KILLS
    python forked_runs.py DIRECTORY disk       # DIRECTORY is a small disk that is filled

torch is imported once, so that an attempt takes a second. Every run is a directory
below DIRECTORY; its `attempts.json` lists what was done to each attempt and how its ranks ended.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from slurm_daemons import children_by_parent
from spec_runs import NETWORKS

from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.core.files import write_atomic
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.launch.prepare import prepare_run
from hpc_yolo.resilience.stop_signal import STOP_SIGNALS
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import CheckpointSaved, StepLogged
from hpc_yolo.runs.journal import JournalReader
from hpc_yolo.spec.checkpoint import CheckpointSpec
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.load import load_spec
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.training.attempt import run_task

SEED = 7
EPOCHS = 12
EVERY_STEPS = 5
KILLS_A_RUN = 5  # then it is left alone: on a slow machine one run could take them all
STORM_S = 0.001
STORM_SIGNALS = (*STOP_SIGNALS, signal.SIGCONT)
POLL_S = 0.002


@dataclass
class Attempt:
    """What was done to an attempt, and how each rank ended: an exit code, or the negative number of a signal."""

    world_size: int
    done: str = ""
    ends: dict[int, int] = field(default_factory=dict)
    ended_after_s: float = 0.0  # since `done` was done


class ForkedRun:
    """A run in its own directory, one attempt after the other."""

    def __init__(self, directory: Path, name: str, head: str = "anchors", **train: Any) -> None:
        fields: dict[str, Any] = {
            "epochs": EPOCHS,
            "batch": 8,
            "imgsz": 64,
            "workers": 0,
            "val_every": 4,
            "plots": False,
        }
        spec = Spec(
            name=name,
            model=str(NETWORKS[head]),
            data=DataSpec(path=str(directory / "shapes" / "dataset.yaml")),
            output=str(directory),
            cluster=ClusterSpec(gpus_per_node=0),
            train=TrainSpec(**fields | train, hyp_overrides={"warmup_epochs": 0}),
            checkpoint=CheckpointSpec(every_steps=EVERY_STEPS, every_s=None),
        )
        self.run = RunDirectory(directory / name)
        prepare_run(self.run, spec)
        self.attempts: list[Attempt] = []
        self.outputs = self.run.path
        self._journal = JournalReader(self.run.journal)

    def attempt(self, world_size: int, disturb: Callable[[Attempt, list[int]], None] | None = None) -> Attempt:
        """Run one more attempt to its end; `disturb` is called with it and the processes of its ranks."""
        attempt = Attempt(world_size)
        job_id = f"{os.getpid()}.{len(self.attempts)}"
        pids = [self._fork_rank(job_id, rank, world_size) for rank in range(world_size)]
        disturbed_s = time.monotonic()
        if disturb is not None:
            disturb(attempt, pids)
            disturbed_s = time.monotonic()
        for rank, pid in enumerate(pids):
            attempt.ends[rank] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        attempt.ended_after_s = time.monotonic() - disturbed_s
        self.attempts.append(attempt)
        with contextlib.suppress(OSError):  # on a full disk
            self.write_attempts()
        return attempt

    def write_attempts(self) -> None:
        """Write attempts.json."""
        write_atomic(self.run.path / "attempts.json", json.dumps([asdict(attempt) for attempt in self.attempts]))

    @property
    def is_finished(self) -> bool:
        """The last attempt has reached the end of the training."""
        return bool(self.attempts) and set(self.attempts[-1].ends.values()) == {0}

    def wait_for(self, kind: type, number: int = 1) -> None:
        """Wait until the current attempt has logged `number` events of a kind."""
        while number > 0:
            number -= sum(isinstance(event, kind) for event in self._journal.new_events())
            time.sleep(POLL_S)

    def _fork_rank(self, job_id: str, rank: int, world_size: int) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        if pid := os.fork():
            return pid
        code = 70
        try:
            names = {"JOB_ID": job_id, "NTASKS": world_size, "GLOBALID": rank, "LOCALID": rank}
            os.environ.update({f"SUBMITIT_LOCAL_{name}": str(value) for name, value in names.items()})
            descriptor = os.open(self.outputs / f"output-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            run_task(self.run, load_spec(self.run.spec))
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        except HpcYoloError as error:
            print(error, flush=True)  # as the command line does for a rank that is alone
            code = error.exit_code
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)


def are_living(pids: Sequence[int]) -> bool:
    """Return True if none of these child processes has ended."""
    return not any(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) for pid in pids)


def kill_at_any_moment(directory: Path, num_kills: int, whole_s: Mapping[int, float]) -> None:
    """Send SIGKILL to ranks and loader workers at random times, start-up included, until `num_kills` are done.

    On two cores only a single rank has a loader worker.

    Args:
        whole_s: number of ranks -> duration of an undisturbed run on this machine.
    """
    chance, kills = random.Random(SEED), 0

    def kill(attempt: Attempt, pids: list[int]) -> None:
        nonlocal kills
        deadline_s = time.monotonic() + chance.uniform(0, whole_s[len(pids)])
        while time.monotonic() < deadline_s and are_living(pids):
            time.sleep(POLL_S)
        rank = chance.randrange(len(pids))
        workers = children_by_parent().get(pids[rank], [])
        is_worker = bool(workers) and chance.random() < 0.5
        if kills < num_kills and len(run.attempts) < KILLS_A_RUN and are_living(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(workers) if is_worker else pids[rank], signal.SIGKILL)
                attempt.done = f"kill of {'a worker of ' if is_worker else ''}rank {rank}"
                kills += 1

    for run_number in itertools.count():
        if kills == num_kills:
            return
        world_size, head = 1 + run_number % 2, ("anchors", "anchor-free")[run_number // 2 % 2]
        # Of two ranks every other run has loader workers, which also may be killed: their starts take time.
        workers = int(world_size == 1 or head == "anchor-free")
        run = ForkedRun(directory, f"killed-{run_number}-{world_size}-{head}", head, workers=workers)
        while not run.is_finished:
            run.attempt(world_size, kill)


def storm(directory: Path) -> None:
    """Send signals of four kinds to both ranks, a thousand per second, from some step until both exit; three times."""
    chance = random.Random(SEED)
    run = ForkedRun(directory, "storm")

    def pour(attempt: Attempt, pids: list[int]) -> None:
        run.wait_for(StepLogged, chance.randrange(3, 15))
        num_signals = 0
        while are_living(pids):
            os.kill(chance.choice(pids), chance.choice(STORM_SIGNALS))
            num_signals += 1
            time.sleep(STORM_S)
        attempt.done = f"{num_signals} signals"

    for _ in range(3):
        run.attempt(2, pour)
    run.attempt(2)


def change_worlds(directory: Path) -> None:
    """Change the number of ranks in every attempt; SIGTERM to one of them ends an attempt.

    Statistics over each rank's own shard would make its size matter; in single precision the rounding of the first
    steps exceeds 1e-4 of a loss after 40 steps.
    """
    chance = random.Random(SEED)
    run = ForkedRun(directory, "worlds", sync_bn=True, precision="fp64", workers=1)

    def terminate(attempt: Attempt, pids: list[int]) -> None:
        run.wait_for(StepLogged, chance.randrange(3, 15))
        os.kill(chance.choice(pids), signal.SIGTERM)
        attempt.done = "SIGTERM"

    for world_size in (1, 2, 4, 2):
        run.attempt(world_size, terminate)
    run.attempt(1)


def fill_the_disk(directory: Path) -> None:
    """Train a run whose disk is full for a while, and one whose disk stays full; their output is written beside it."""
    filler = directory / "filler"

    def fill() -> None:
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            while file.write(bytes(2**12)):
                pass

    def fill_for_a_while(_attempt: Attempt, pids: list[int]) -> None:
        run.wait_for(CheckpointSaved)
        while are_living(pids) and "cannot be saved" not in (run.outputs / "output-0").read_text():
            fill()
            time.sleep(POLL_S)
        filler.unlink()

    def fill_for_good(_attempt: Attempt, pids: list[int]) -> None:
        run.wait_for(CheckpointSaved)
        while are_living(pids):  # what was written of a refused checkpoint makes room when it is removed
            fill()
            time.sleep(POLL_S)

    for name, disturb in (("full-for-a-while", fill_for_a_while), ("full", fill_for_good)):
        run = ForkedRun(directory, name, workers=1)
        run.outputs = directory.parent / name
        run.outputs.mkdir()
        (run.outputs / "output-0").touch()
        run.attempt(1, disturb)
        filler.unlink(missing_ok=True)
        run.write_attempts()


def interrupt_in_every_way(directory: Path, num_kills: int) -> None:
    """Train all runs that need no disk of their own, and the runs that they are compared with."""
    whole_s = {
        size: ForkedRun(directory, f"undisturbed-{size}-{head}", head).attempt(size).ended_after_s
        for head in NETWORKS
        for size in (1, 2)
    }
    ForkedRun(directory, "undisturbed-world", sync_bn=True, precision="fp64").attempt(2)
    storm(directory)
    change_worlds(directory)
    kill_at_any_moment(directory, num_kills, whole_s)


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    write_shapes_dataset(directory / "shapes", num_train=40, num_val=8)
    if sys.argv[2] == "disk":
        fill_the_disk(directory)
    else:
        interrupt_in_every_way(directory, int(sys.argv[2]))
