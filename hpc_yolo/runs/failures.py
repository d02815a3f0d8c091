"""The last words of ranks that failed: one small file each, written once."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from hpc_yolo.core.files import write_atomic
from hpc_yolo.runs.directory import RunDirectory


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a rank ended. `restart`: which start of its job. `is_echo`: it only noticed that another rank had gone."""

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
        """For a terminal: rank and host, then the traceback, or the message alone for a mistake of the user's."""
        return f"rank {self.rank} on {self.host} failed: {self.traceback or self.message}".rstrip()


def write_failure(run: RunDirectory, failure: Failure) -> None:
    """Keep `failure` in the run directory.

    Raises:
        OSError: the file system refuses.
    """
    path = run.failures / f"{failure.time:.6f}-rank{failure.rank}.json"
    write_atomic(path, msgspec.json.encode(failure))


def failures_of(run: RunDirectory, job_id: str, restart: int) -> list[Failure]:
    """The failures in one start of a job."""
    return [failure for failure in _read_failures(run) if (failure.job_id, failure.restart) == (job_id, restart)]


def first_failure(run: RunDirectory, since: float = 0.0) -> Failure | None:
    """The failure that came first after `since` (seconds since 1970), those that only echo another last."""
    return next((failure for failure in all_failures(run) if failure.time >= since), None)


def all_failures(run: RunDirectory) -> list[Failure]:
    """Every failure of the run: first those that began in their rank, by time, then those that echo another."""
    return sorted(_read_failures(run), key=lambda failure: (failure.is_echo, failure.time))


def _read_failures(run: RunDirectory) -> Iterator[Failure]:
    for path in run.failures.glob("*.json"):
        try:
            yield msgspec.json.decode(path.read_bytes(), type=Failure)
        except (OSError, msgspec.MsgspecError):
            continue
