"""Failures of ranks: one small file each, written once."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec

from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.core.files import write_atomic
from hpc_yolo.runs.directory import RunDirectory


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """The error that ended a rank.

    Attributes:
        restart: number of the job's start, from 1.
        is_echo: the rank only noticed that another process had ended.
    """

    time: float
    rank: int
    host: str
    job_id: str | None
    restart: int = 1
    kind: str
    message: str
    traceback: str
    exit_code: int
    is_echo: bool

    @property
    def text(self) -> str:
        """Rank and host, then the traceback, or the message alone for an error of the user."""
        return f"rank {self.rank} on {self.host} failed: {self.traceback or self.message}".rstrip()

    @property
    def headline(self) -> str:
        """One line: the last one of the traceback, or the message without its hint."""
        return self.text.splitlines()[-1 if self.traceback else 0]


def failure_without_traceback(
    error: HpcYoloError, *, rank: int, host: str, job_id: str | None, restart: int, is_echo: bool = False
) -> Failure:
    """Return the record of an `error` now, whose message says all that a user needs; see `Failure` for the fields."""
    return Failure(
        time=time.time(),
        rank=rank,
        host=host,
        job_id=job_id,
        restart=restart,
        kind=type(error).__name__,
        message=str(error),
        traceback="",
        exit_code=error.exit_code,
        is_echo=is_echo,
    )


def write_failure(run: RunDirectory, failure: Failure) -> None:
    """Write `failure` into the run directory.

    Raises:
        OSError: it cannot be written.
    """
    path = run.failures / f"{failure.time:.6f}-rank{failure.rank}.json"
    write_atomic(path, msgspec.json.encode(failure))


def failures_of(run: RunDirectory, job_id: str, restart: int) -> list[Failure]:
    """Return the failures in start number `restart` of a job."""
    return [failure for failure in _read_failures(run) if (failure.job_id, failure.restart) == (job_id, restart)]


def first_failure(run: RunDirectory, since: float = 0.0) -> Failure | None:
    """Return the first failure after `since` (seconds since 1970), those that only echo another last."""
    return next((failure for failure in all_failures(run) if failure.time >= since), None)


def all_failures(run: RunDirectory) -> list[Failure]:
    """Return every failure of the run: first those that began in their rank, by time, then those that echo another."""
    return sorted(_read_failures(run), key=lambda failure: (failure.is_echo, failure.time))


def _read_failures(run: RunDirectory) -> Iterator[Failure]:
    for path in run.failures.glob("*.json"):
        try:
            yield msgspec.json.decode(path.read_bytes(), type=Failure)
        except (OSError, msgspec.MsgspecError):
            continue
