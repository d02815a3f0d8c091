"""Small attempts that fail in one way each; a program, which launches their ranks.

    python stalls.py DIRECTORY

Every attempt has its own run directory `DIRECTORY/<name>` and several ranks, each a process of its own (forked, so that
torch is imported once). Nothing ends the remaining ranks, as with submitit's local launcher. At the end
`DIRECTORY/<name>/ends.json` lists how each rank ended: an exit code, or the negative number of a signal.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from hpc_yolo.cluster.local_process import is_stopped
from hpc_yolo.cluster.process import LOOPBACK, ProcessInfo
from hpc_yolo.core.files import write_atomic
from hpc_yolo.distributed import World, connected
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.training.watchdog import Watchdog

ATTEMPT = 7
GRIEF_AT = 30  # about two seconds after the first step
NUM_STEPS = 60
STEP_S = 0.05
START_S = 60
SUSPENDED_S = 9


@dataclass(frozen=True)
class Case:
    """Number of ranks, which of them fails, and the limit of the watchdog."""

    num_ranks: int
    victim: int | None
    timeout_s: float = 3


CASES = {
    "stopped": Case(3, 1),
    "store stopped": Case(3, 0),
    "killed": Case(3, 1, timeout_s=600),
    "store killed": Case(3, 0, timeout_s=600),
    "loader": Case(3, 2),
    "python held up": Case(2, 1),
    "patient": Case(2, None, timeout_s=2),
    "suspended": Case(2, None, timeout_s=7),
    "alone": Case(1, 0),
    "disk gone": Case(1, 0),
}


def train(case: str, world: World, watchdog: Watchdog) -> None:
    """Run a training loop without a model."""
    is_victim = world.rank == CASES[case].victim
    for step in range(NUM_STEPS):
        watchdog.heartbeat("waiting for data", step)
        if step == GRIEF_AT and case in ("loader", "alone", "disk gone") and is_victim:
            threading.Event().wait()
        watchdog.heartbeat("step", step)
        if case == "patient":
            be_slow(step, world.rank, watchdog)
        if step == GRIEF_AT and (case == "suspended" or (case in ("stopped", "store stopped") and is_victim)):
            os.kill(os.getpid(), signal.SIGSTOP)
        if step == GRIEF_AT and case == "python held up" and is_victim:
            hold_python_up()
        if step == GRIEF_AT and case in ("killed", "store killed"):
            if is_victim:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()  # as for a device: no connection is looked at
        world.barrier()
        time.sleep(STEP_S)


def be_slow(step: int, rank: int, watchdog: Watchdog) -> None:
    """Take twice the limit where that is allowed; the other rank waits."""
    if step == 0 and rank == 1:
        time.sleep(4)
    elif step == GRIEF_AT:
        watchdog.heartbeat("metrics", step, allowed_s=60)
        if rank == 0:
            time.sleep(4)


def hold_python_up() -> None:
    """Block for ever without releasing the interpreter lock."""
    library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


def be_rank(case: str, rank: int, directory: Path) -> None:
    """Run one rank of an attempt in this process."""
    num_ranks = CASES[case].num_ranks
    process = ProcessInfo(rank, rank, 0, num_ranks, num_ranks, 1, LOOPBACK, None, "submitit-local", job_id=case)
    run = RunDirectory(directory)
    with connected(process, run, torch.device("cpu"), START_S) as world:
        attempt = ATTEMPT if rank == 0 else 0
        with Watchdog(world, run, attempt, timeout_s=CASES[case].timeout_s, start_timeout_s=START_S) as watchdog:
            train(case, world, watchdog)


def fork_rank(case: str, rank: int, directory: Path) -> int:
    """Start a rank as a process; its error output goes to a file."""
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    code = 70
    try:
        descriptor = os.open(directory / f"stderr-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 2)
        be_rank(case, rank, directory)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def launch(directory: Path) -> None:
    """Start all attempts, and wait for the last rank."""
    ranks = {}
    for case in CASES:
        run = RunDirectory(directory / case.replace(" ", "-"))
        run.create()
        if case == "disk gone":
            run.failures.rmdir()
            run.stacks.write_text("no directory can be made here")
        for rank in range(CASES[case].num_ranks):
            ranks[fork_rank(case, rank, run.path)] = (case, rank)
    ends: dict[str, dict[int, int]] = {case: {} for case in CASES}
    suspended = [pid for pid, (case, _) in ranks.items() if case == "suspended"]
    threading.Thread(target=go_on_later, args=[suspended], daemon=True).start()
    while ranks:
        pid, status = os.wait()
        case, rank = ranks.pop(pid)
        ends[case][rank] = os.waitstatus_to_exitcode(status)
        if len(ends[case]) == CASES[case].num_ranks:
            write_atomic(directory / case.replace(" ", "-") / "ends.json", json.dumps(ends[case]))


def go_on_later(pids: list[int]) -> None:
    """Continue stopped processes after longer than their watchdogs would wait."""
    while not all(is_stopped(pid) for pid in pids):
        time.sleep(0.05)
    time.sleep(SUSPENDED_S)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


if __name__ == "__main__":
    launch(Path(sys.argv[1]))
