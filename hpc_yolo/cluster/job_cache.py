"""The last reply of Slurm, shared by all status screens of a user, so that the controller is queried seldom.

One file holds the reply and the time of the next query. The process that finds a query due takes the lock, queries the
jobs that all screens want, and writes the file; the others read it. The slower the controller, the longer the interval
between queries; without a reply the interval doubles, and the old reply stays valid with its time.
"""

from __future__ import annotations

import contextlib
import re
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.slurm_output import JobState
from hpc_yolo.core.errors import ClusterError
from hpc_yolo.core.files import exclusive_lock, write_atomic

INTERVAL_S = 10.0
MAX_INTERVAL_S = 300.0
TIMEOUT_S = 20.0  # for a live screen, which waits in a thread of its own
MAX_LOAD = 0.1  # fraction of the time that Slurm may work on these queries
WANTED_FOR_S = 600.0  # time after the last request of a screen, after which a job is not queried
SETTLES_S = 60.0  # a job that is requeued may look ended for a while
SETTLED_FOR_S = 300.0  # a job that has ended may still be requeued by hand
_JOB_ID = re.compile(r"\d+(_\d+)?(@[\w.-]+)?")


class CachedJobState(msgspec.Struct, frozen=True, kw_only=True):
    """State of one job and the time of the query; `ended_since`: first query that found it ended, None otherwise."""

    job: JobState
    time: float
    ended_since: float | None = None

    def is_settled(self, now: float) -> bool:
        """Return whether the job need not be queried again at `now`."""
        since = self.ended_since
        return since is not None and self.time - since >= SETTLES_S and now - self.time < SETTLED_FOR_S


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The last reply of Slurm. All times in seconds since 1970.

    Attributes:
        jobs: state by job id.
        time: of the last query that was answered; None before the first.
        error: why the last query failed; "" where it was answered.
        interval_s: from the last query to the next.
        next_time: of the next query.
        wanted: job id -> time of the last request of a screen.
    """

    jobs: dict[str, CachedJobState] = {}
    time: float | None = None
    error: str = ""
    interval_s: float = INTERVAL_S
    next_time: float = 0.0
    wanted: dict[str, float] = {}


class JobCache:
    """States of jobs for status screens."""

    def __init__(
        self,
        directory: Path,
        environ: Mapping[str, str],
        *,
        timeout_s: float = TIMEOUT_S,
        query_jobs: Callable[[Iterable[str]], dict[str, JobState]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Use the cache in `directory`, the user's state directory.

        Args:
            directory: created when it is first needed.
            environ: SLURM_CONF in it distinguishes clusters that share a home directory.
            timeout_s: how long to wait for Slurm, or for another screen that waits for it; then the old reply is used.
            query_jobs: replaces `scheduler.job_states`.
            clock: seconds since 1970.
        """
        cluster = zlib.crc32(environ.get("SLURM_CONF", "").encode())
        self._path = directory / f"slurm-{cluster:08x}.json"
        self._timeout_s = timeout_s
        self._query_jobs = query_jobs or (lambda job_ids: scheduler.job_states(job_ids, timeout_s))
        self._clock = clock
        self._own = Reply()  # used where the directory is not writable

    def latest(self) -> Reply:
        """Return the last reply without a query."""
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=Reply)
        except (OSError, msgspec.MsgspecError):
            return self._own
        return found if found.next_time >= self._own.next_time else self._own

    def query(self, job_ids: Iterable[str]) -> Reply:
        """Return the last reply after a query of Slurm, if one is due.

        A job without an earlier request is in the next reply. Texts that are not job ids are ignored.
        """
        ids = [job_id for job_id in job_ids if _JOB_ID.fullmatch(job_id)]
        if not ids:
            return self.latest()
        with contextlib.ExitStack() as held:
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                held.enter_context(exclusive_lock(self._path.with_suffix(".lock"), self._timeout_s))
            except TimeoutError:
                return self.latest()
            except OSError:
                pass  # not writable: this screen queries for itself
            before = self.latest()
            now = self._clock()
            wanted = {job_id: at for job_id, at in before.wanted.items() if now - at < WANTED_FOR_S}
            wanted |= dict.fromkeys(ids, now)
            # A clock that was set back must not delay the next query by more than the longest interval.
            if 0 < before.next_time - now <= MAX_INTERVAL_S:
                if wanted.keys() == before.wanted.keys():
                    return before
                return self._keep(msgspec.structs.replace(before, wanted=wanted))
            return self._keep(self._query_slurm(before, wanted))

    def _query_slurm(self, before: Reply, wanted: dict[str, float]) -> Reply:
        started = self._clock()
        kept = {job_id: cached for job_id, cached in before.jobs.items() if job_id in wanted}
        due = [job_id for job_id in wanted if not (job_id in kept and kept[job_id].is_settled(started))]
        if not due:
            return msgspec.structs.replace(before, wanted=wanted)
        try:
            states, error = self._query_jobs(due), ""
        except ClusterError as failure:
            states, error = {}, failure.message
        now = self._clock()
        interval_s = max(INTERVAL_S, (now - started) / MAX_LOAD, 2 * before.interval_s if error else 0.0)
        interval_s = min(interval_s, MAX_INTERVAL_S)
        return Reply(
            jobs=kept | {job_id: _cached(job, kept.get(job_id), now) for job_id, job in states.items()},
            time=before.time if error else now,
            error=error,
            interval_s=interval_s,
            next_time=now + interval_s,
            wanted=wanted,
        )

    def _keep(self, reply: Reply) -> Reply:
        self._own = reply
        with contextlib.suppress(OSError):
            write_atomic(self._path, msgspec.json.encode(reply))
        return reply


def _cached(job: JobState, before: CachedJobState | None, now: float) -> CachedJobState:
    if job.is_alive:
        return CachedJobState(job=job, time=now)
    since = None if before is None else before.ended_since
    return CachedJobState(job=job, time=now, ended_since=now if since is None else since)
