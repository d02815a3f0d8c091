"""New names for runs: from the patterns of a spec, and exp, exp2, exp3, the same in all tasks of a run."""

from __future__ import annotations

import getpass
import itertools
import re
import time
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import RunError, SpecError
from hpc_yolo.core.files import write_atomic
from hpc_yolo.spec.run_name import NUMBER, filled, has_patterns
from hpc_yolo.spec.schema import Spec

MAX_LENGTH = 100
WAIT_S = 120.0
POLL_S = 0.1
STORE_KEY = "hpc-yolo/run"


def with_filled_name(spec: Spec, now: datetime | None = None) -> Spec:
    """Return `spec` with the patterns of its name filled in.

    Args:
        now: time of the submission; that of this call unless given.

    Raises:
        SpecError: the name becomes too long.
    """
    if not has_patterns(spec.name):
        return spec
    now = datetime.now() if now is None else now
    values = {"model": Path(spec.model_source).stem, "user": getpass.getuser()}
    name = filled(spec.name, values | {"date": now.strftime("%Y-%m-%d"), "time": now.strftime("%H%M%S")})
    name = name.lstrip(".-") if NUMBER not in name else _numbered(Path(spec.output), name.lstrip(".-"))
    if len(name) > MAX_LENGTH:
        raise SpecError(f"name: {name} has {len(name)} characters", hint=f"at most {MAX_LENGTH}; write fewer patterns")
    return msgspec.structs.replace(spec, name=name)


def require_filled_name(spec: Spec) -> None:
    """Check that the name of `spec` has no patterns, which tasks that start apart could not fill in alike.

    Raises:
        SpecError: it has.
    """
    if has_patterns(spec.name):
        raise SpecError(
            f"name: {spec.name}: patterns are filled in by hpc-yolo submit and render, before the tasks start",
            hint="in a script of your own, give all tasks the same name: --name run-$SLURM_JOB_ID",
        )


def _numbered(output: Path, name: str) -> str:
    """Return `name` with the number after the highest one that exists in `output`, from 1."""
    before, _, after = name.partition(NUMBER)
    form = re.compile(re.escape(before) + r"([0-9]{1,9})" + re.escape(after.replace(NUMBER, "")))
    found = [form.fullmatch(path.name) for path in output.iterdir()] if output.is_dir() else []
    number = 1 + max((int(match[1]) for match in found if match), default=0)
    return before + str(number) + after.replace(NUMBER, "")


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
    return path.read_text(encoding="utf-8")
