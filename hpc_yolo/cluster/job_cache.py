"""What Slurm said last, shared by all of a person's screens: a controller is asked seldom, however many look.

One file holds the answer and when Slurm may be asked again; whoever finds it due takes the lock, asks for the jobs that
all screens want, and writes the file. The others read it. A slow controller is asked less often, a silent one less and
less; meanwhile the old answer stands, with its time.
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
PATIENCE_S = 20.0  # of a screen, which has a thread to wait
MAX_INTERVAL_S = 300.0
SLOWNESS = 10.0  # of the time, Slurm works for us at most one part in so many
WANTED_FOR_S = 600.0  # a job that no screen has asked for since then is asked for no more
SETTLES_S = 60.0  # a job may look over while it goes back into the queue
SETTLED_FOR_S = 300.0  # a job that is over may still be put back by hand
_JOB_ID = re.compile(r"\d+(_\d+)?(@[\w.-]+)?")


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What Slurm said of one job, and when. `over_since`: when that it is over was first said; None while it is not."""

    job: JobState
    time: float
    over_since: float | None = None

    def is_settled(self, now: float) -> bool:
        """Whether it need not be asked for again at `now`."""
        since = self.over_since
        return since is not None and self.time - since >= SETTLES_S and now - self.time < SETTLED_FOR_S


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Slurm's last answer. All times in seconds since 1970.

    Attributes:
        jobs: by job id, each that was asked for.
        time: when it was given; None before the first.
        error: why there is no newer one; "" where the last question was answered.
        interval_s: from the last question to the next.
        next_time: when Slurm may be asked again.
        wanted: job id -> when a screen last wanted it.
    """

    jobs: dict[str, Told] = {}
    time: float | None = None
    error: str = ""
    interval_s: float = INTERVAL_S
    next_time: float = 0.0
    wanted: dict[str, float] = {}


class SharedAnswers:
    """The door to Slurm for screens. `directory` is the person's state directory."""

    def __init__(
        self,
        directory: Path,
        environ: Mapping[str, str],
        *,
        patience_s: float = PATIENCE_S,
        ask: Callable[[Iterable[str]], dict[str, JobState]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            patience_s: how long to wait for Slurm, or for another screen that waits for it; then the old answer stands.
        """
        # Two clusters may share a home; the variable is what tells the private ones apart.
        cluster = zlib.crc32(environ.get("SLURM_CONF", "").encode())
        self._path = directory / f"slurm-{cluster:08x}.json"
        self._patience_s = patience_s
        self._ask = ask or (lambda job_ids: scheduler.job_states(job_ids, patience_s))
        self._clock = clock
        self._own = Answer()  # stands in where the directory cannot be written

    def latest(self) -> Answer:
        """What is known, without asking anybody."""
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=Answer)
        except (OSError, msgspec.MsgspecError):
            return self._own
        return found if found.next_time >= self._own.next_time else self._own

    def about(self, job_ids: Iterable[str]) -> Answer:
        """The newest answer that there may be; asks Slurm where that is due.

        Jobs that nobody has asked for before are in the next answer. What is no job id is passed over.
        """
        ids = [job_id for job_id in job_ids if _JOB_ID.fullmatch(job_id)]
        if not ids:
            return self.latest()
        with contextlib.ExitStack() as held:
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                held.enter_context(exclusive_lock(self._path.with_suffix(".lock"), self._patience_s))
            except TimeoutError:
                return self.latest()
            except OSError:
                pass  # a directory that cannot be written: this screen asks for itself
            before = self.latest()
            now = self._clock()
            wanted = {job_id: at for job_id, at in before.wanted.items() if now - at < WANTED_FOR_S}
            wanted |= dict.fromkeys(ids, now)
            # A clock that was set back must not silence us for longer than we ever wait.
            if 0 < before.next_time - now <= MAX_INTERVAL_S:
                if wanted.keys() == before.wanted.keys():
                    return before
                return self._keep(msgspec.structs.replace(before, wanted=wanted))
            return self._keep(self._ask_slurm(before, wanted))

    def _ask_slurm(self, before: Answer, wanted: dict[str, float]) -> Answer:
        started = self._clock()
        kept = {job_id: told for job_id, told in before.jobs.items() if job_id in wanted}
        due = [job_id for job_id in wanted if not (job_id in kept and kept[job_id].is_settled(started))]
        if not due:
            return msgspec.structs.replace(before, wanted=wanted)
        try:
            states, error = self._ask(due), ""
        except ClusterError as refusal:
            states, error = {}, refusal.message
        now = self._clock()
        interval_s = max(INTERVAL_S, SLOWNESS * (now - started), 2 * before.interval_s if error else 0.0)
        interval_s = min(interval_s, MAX_INTERVAL_S)
        return Answer(
            jobs=kept | {job_id: _told(job, kept.get(job_id), now) for job_id, job in states.items()},
            time=before.time if error else now,
            error=error,
            interval_s=interval_s,
            next_time=now + interval_s,
            wanted=wanted,
        )

    def _keep(self, answer: Answer) -> Answer:
        self._own = answer
        with contextlib.suppress(OSError):
            write_atomic(self._path, msgspec.json.encode(answer))
        return answer


def _told(job: JobState, before: Told | None, now: float) -> Told:
    if job.is_alive:
        return Told(job=job, time=now)
    since = None if before is None else before.over_since
    return Told(job=job, time=now, over_since=now if since is None else since)
