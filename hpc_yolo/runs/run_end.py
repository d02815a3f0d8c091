"""The end of a run: the newest attempt has ended, and nothing follows it by itself."""

from __future__ import annotations

from dataclasses import dataclass

from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.events import AttemptEnded, Cause


@dataclass(frozen=True)
class RunEnd:
    """An end of a run. One that is submitted again afterwards, and trains on, has another end.

    Attributes:
        attempt: the one that ended; of several in a row that found the run finished, the first. 0: none had begun.
        is_finished: the last step is done.
        cause: see `Cause`.
    """

    attempt: int
    is_finished: bool
    cause: str = ""

    @property
    def is_by_person(self) -> bool:
        """True for a run that a person has stopped, and may submit again."""
        return self.cause in (Cause.CANCELLED, Cause.INTERRUPTED)


def recorded_end(attempts: Attempts) -> RunEnd | None:
    """Return the end of the run that the journal has; None for one that goes on, as far as the journal shows."""
    newest = attempts.newest
    if newest is None or newest.ended is None or newest.ended.requeued:
        return None
    if newest.ended.outcome != AttemptEnded.FINISHED:
        return RunEnd(newest.number, is_finished=False, cause=newest.cause)
    first = newest
    for attempt in reversed(attempts.without(newest.number)):
        ended = attempt.ended
        if ended is None or (ended.outcome, ended.step) != (AttemptEnded.FINISHED, newest.ended.step):
            break
        first = attempt
    return RunEnd(first.number, is_finished=True, cause=newest.cause)
