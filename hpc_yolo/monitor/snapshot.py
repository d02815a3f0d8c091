"""All runs as values, joined from their journals and the last reply of Slurm. Nothing is drawn here.

A collector reads only what was added to the journals since its last refresh. It returns values: whoever draws them
reads nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import msgspec

from hpc_yolo.cluster.job_cache import JobCache, Reply
from hpc_yolo.core.errors import RunError
from hpc_yolo.core.units import short_time
from hpc_yolo.monitor.run_facts import RunFacts
from hpc_yolo.monitor.tracked_run import TrackedRun
from hpc_yolo.runs.directory import RunDirectory, find_runs
from hpc_yolo.runs.sweep import SweepDirectory

FIND_INTERVAL_S = 10.0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All runs at `time`.

    Attributes:
        num_unread: runs whose journals are still to be read; they are not among `runs` yet.
        sweeps: path of each sweep -> number of its trials; those that have begun are among `runs`.
        slurm_time: time of Slurm's last reply.
        slurm_error: why there is no newer one.
    """

    time: float
    runs: list[RunFacts]
    sweeps: dict[str, int] = {}
    num_unread: int = 0
    slurm_time: float | None = None
    slurm_error: str = ""

    @property
    def slurm_text(self) -> str:
        """Age of Slurm's reply, and why there is no newer one; "" where no run needs it."""
        age = "" if self.slurm_time is None else f"{short_time(self.time - self.slurm_time)} ago"
        if self.slurm_error:
            return f"Slurm {f'as of {age}' if age else 'has not answered yet'}: {self.slurm_error}"
        return f"Slurm {age}" if age else ""


class Collector:
    """Keeps facts about many runs up to date at the cost of what has changed."""

    def __init__(
        self,
        find: Callable[[], Iterable[RunDirectory]],
        cache: JobCache,
        *,
        find_sweeps: Callable[[], Iterable[SweepDirectory]] = lambda: (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Initialize the collector.

        Args:
            find: finds the runs; called every `FIND_INTERVAL_S` seconds.
            find_sweeps: finds the sweeps, likewise.
        """
        self._find = find
        self._cache = cache
        self._find_sweeps = find_sweeps
        self._sweeps: dict[str, int] = {}
        self._clock = clock
        self._tracked: dict[str, TrackedRun] = {}
        self._gone: dict[str, RunFacts] = {}
        self._found_at = float("-inf")
        self._wanted: list[str] = []

    def refresh(self, *, budget_s: float = float("inf"), query_slurm: bool = True) -> Snapshot:
        """Read what is new and return the runs as they stand now.

        Args:
            budget_s: seconds after which no further journal is started; the rest follow at the next call.
            query_slurm: query Slurm if that is due, which may take seconds; False: use its last reply.
        """
        deadline_s = time.monotonic() + budget_s
        is_search_due = self._find_runs()
        # Those that were read before come first: a screen must not wait for an archive to show what runs.
        for tracked in sorted(self._tracked.values(), key=_reading_order):
            if tracked.is_over and not is_search_due:
                continue
            if tracked.is_read or time.monotonic() < deadline_s:
                tracked.read()
        read = [tracked for tracked in self._tracked.values() if tracked.is_read]
        self._wanted = wanted = [job_id for tracked in read for job_id in tracked.slurm_job_ids()]
        reply = self.query_slurm() if query_slurm else self._cache.latest()
        now = self._clock()
        return Snapshot(
            time=now,
            runs=[*(tracked.facts(reply, now) for tracked in read), *self._gone.values()],
            sweeps=self._sweeps,
            num_unread=len(self._tracked) - len(read),
            slurm_time=reply.time if wanted else None,
            slurm_error=reply.error if wanted else "",
        )

    def query_slurm(self) -> Reply:
        """Return Slurm's reply about the jobs of the last refresh; may take seconds: a screen has a thread for it."""
        return self._cache.query(self._wanted)

    def _find_runs(self) -> bool:
        """Find the runs where that is due; return True if so: runs that are over are read again then, too."""
        now_s = time.monotonic()
        if now_s - self._found_at < FIND_INTERVAL_S:
            return False
        runs = {str(run.path): run for run in [*self._find(), *self._find_trials()]}
        for path, tracked in self._tracked.items():
            if path not in runs:
                detail = "its directory has been moved or removed"
                self._gone[path] = RunFacts(name=tracked.run.name, path=path, state="gone", detail=detail)
        for path in self._gone.keys() & runs.keys():
            del self._gone[path]
        self._tracked = {path: self._tracked.get(path) or TrackedRun(run) for path, run in runs.items()}
        self._found_at = now_s
        return True

    def _find_trials(self) -> Iterator[RunDirectory]:
        """Find the sweeps; yield their trials that have begun."""
        self._sweeps = {}
        for sweep in self._find_sweeps():
            try:
                trials = [sweep.trial(trial.name) for trial in sweep.trials()]
            except RunError:  # its list is damaged or of another version; those that have begun are there
                trials = find_runs(sweep.path)
            self._sweeps[str(sweep.path)] = len(trials)
            yield from (run for run in trials if run.exists)


def _reading_order(tracked: TrackedRun) -> tuple[bool, float]:
    """Return a sort key: runs that were read before, then those with the newest journals."""
    if tracked.is_read:
        return False, 0.0
    try:
        return True, -tracked.run.journal.stat().st_mtime
    except OSError:
        return True, 0.0
