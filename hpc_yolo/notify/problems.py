"""The process beside the tasks of a run that reports problems while it trains, each kind once in a run.

The rules are those of the status screen (`monitor.alerts`). A problem is reported when it is found twice in a row.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from hpc_yolo.core.errors import RunError
from hpc_yolo.monitor.alerts import NEEDS_PERSON, problems_by_kind
from hpc_yolo.monitor.run_record import RecordReader
from hpc_yolo.notify.message import problem_message
from hpc_yolo.notify.record import place_of_notices
from hpc_yolo.notify.send import send_once
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptStarted
from hpc_yolo.runs.notices import problem_key
from hpc_yolo.spec.notify import PROBLEM, NotifySpec

POLL_S = 30.0
END_POLL_S = 2.0  # between two looks at whether the batch script has ended


class ProblemWatch:
    """Finds the problems of one run that need a person, and sends a message about each kind."""

    def __init__(
        self,
        run: RunDirectory,
        notify: NotifySpec,
        environ: Mapping[str, str],
        *,
        job_id: str | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Initialize the watch.

        Args:
            environ: has the variables that the spec names.
            job_id: of the job that trains.
            clock: returns seconds since 1970.
        """
        self._run, self._notify, self._environ, self._job_id = run, notify, environ, job_id
        self._clock, self._began = clock, clock()
        self._reader = RecordReader(run)
        self._before: dict[str, str] = {}
        self._reported: set[str] = set()
        self._place = place_of_notices(run)

    def look(self) -> None:
        """Read what is new, and send a message about each problem that was there at the last look too."""
        with contextlib.suppress(OSError, RunError):
            self._reader.read()
        found = self._problems()
        for kind in found.keys() & self._before.keys():
            self._report(problem_key(kind), found[kind])
        self._before = found

    def _problems(self) -> dict[str, str]:
        record = self._reader.record
        newest = record.newest
        # The pause before the first event of this start of the job was time in the queue.
        is_training = isinstance(newest, AttemptStarted) and newest.time >= self._began
        found = problems_by_kind(record, is_running=is_training, now=self._clock())
        if not is_training:
            found = {"losses": found["losses"]}
        return {kind: problems[0] for kind, problems in found.items() if problems and kind in NEEDS_PERSON}

    def _report(self, key: str, problem: str) -> None:
        if key in self._reported:
            return
        self._reported.add(key)
        send_once(
            self._place,
            self._notify,
            key,
            lambda: problem_message(self._run, self._reader.record, problem),
            self._environ,
            event=PROBLEM,
            job_id=self._job_id,
        )


def watch_problems(watch: ProblemWatch, *, is_needed: Callable[[], bool]) -> None:
    """Look at the run now and then until `is_needed` returns False."""
    next_look = 0.0
    while is_needed():
        if time.monotonic() >= next_look:
            watch.look()
            next_look = time.monotonic() + POLL_S
        time.sleep(END_POLL_S)


@contextlib.contextmanager
def watching(watch: ProblemWatch | None) -> Iterator[None]:
    """Look at a run in a thread while the block runs; None watches nothing."""
    if watch is None:
        yield
        return
    is_over = threading.Event()

    def look_until_the_end() -> None:
        while not is_over.wait(POLL_S):
            watch.look()

    thread = threading.Thread(target=look_until_the_end, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
