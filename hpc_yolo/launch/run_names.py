"""Choose a new name for a run (exp, exp2, exp3), the same in all of its tasks."""

from __future__ import annotations

import itertools
import time
from datetime import timedelta
from pathlib import Path

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import RunError
from hpc_yolo.core.files import write_atomic

WAIT_S = 120.0
POLL_S = 0.1
STORE_KEY = "hpc-yolo/run"


def agreed_name(output: Path, wanted: str, process: ProcessInfo) -> str:
    """Return `wanted` with the first number that is free in `output`, chosen by rank 0 and kept by a restarted job."""
    if process.launcher == "torchrun":
        return _agreed_in_store(output, wanted, process)
    if process.launcher == "slurm":
        return _agreed_in_file(output, wanted, process)
    return free_name(output, wanted)


def free_name(output: Path, wanted: str) -> str:
    """Return the first of wanted, wanted2, wanted3 … that does not exist in `output`."""
    names = itertools.chain([wanted], (f"{wanted}{number}" for number in itertools.count(2)))
    return next(name for name in names if not (output / name).exists())


def _agreed_in_store(output: Path, wanted: str, process: ProcessInfo) -> str:
    """Agree through the store of torchrun's agent, which has the name after a restart."""
    from hpc_yolo.distributed import launcher_store

    store = launcher_store(process, WAIT_S)
    if process.rank == 0 and not store.check([STORE_KEY]):
        store.set(STORE_KEY, free_name(output, wanted))
    store.wait([STORE_KEY], timedelta(seconds=WAIT_S))
    return store.get(STORE_KEY).decode()


def _agreed_in_file(output: Path, wanted: str, process: ProcessInfo) -> str:
    """Agree through a file named after the Slurm job, which a requeued job finds."""
    path = output / f".{wanted}.job-{process.job_id}"
    if process.rank == 0 and not path.exists():
        output.mkdir(parents=True, exist_ok=True)
        write_atomic(path, free_name(output, wanted))
    deadline = time.monotonic() + WAIT_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise RunError(f"{path}: rank 0 did not write the run's name within {WAIT_S:.0f} s")
        time.sleep(POLL_S)
    return path.read_text()
