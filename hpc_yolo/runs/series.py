"""The series of a run: the values of its journal as rows by step, the same however often and in what parts it is read.

A run that was preempted repeats steps. The values that were logged first stay: a resumed run computes the same ones,
and no tracker can take back what it has. So the series only grows, and a row keeps its index.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hpc_yolo.runs.events import AnyEvent, AttemptEnded, EpochEnded, Evaluated, StepLogged
from hpc_yolo.runs.metrics import METRIC_TITLES

Values = dict[str, float]


@dataclass(frozen=True)
class Row:
    """The values of one step.

    Attributes:
        index: number of rows before it.
        step: steps ascend, except in the row of an evaluation that came after later steps (`validate: aside`).
        time: of the first of its events, in seconds since 1970.
        values: by name, whose part before the slash is the group; values that are not finite are left out.
    """

    index: int
    step: int
    time: float
    values: Values = field(default_factory=dict)


class Series:
    """Makes rows of events, which come in the order of the journal.

    A row is complete when a later step or the end of the run is in the journal, because an evaluation follows its step.
    """

    def __init__(self) -> None:
        self._num_rows = 0
        self._open: Row | None = None
        self._last_step = {StepLogged: -1, EpochEnded: -1}
        self._evaluated: set[int] = set()  # results of evaluations aside come in any order

    def add(self, event: AnyEvent) -> list[Row]:
        """Take in the next event, and return the rows that are complete with it."""
        if isinstance(event, AttemptEnded):
            return [] if event.requeued else self._close()
        if not isinstance(event, (StepLogged, EpochEnded, Evaluated)) or self._is_repeated(event):
            return []
        if self._open is not None and event.step == self._open.step:
            self._open.values.update(_values_of(event))
            return []
        if self._open is not None and event.step < self._open.step:
            late = Row(self._open.index, event.step, event.time, _values_of(event))
            self._open = Row(late.index + 1, self._open.step, self._open.time, self._open.values)
            self._num_rows += 1
            return [late]
        complete = self._close()
        self._open = Row(self._num_rows, event.step, event.time, _values_of(event))
        self._num_rows += 1
        return complete

    def _close(self) -> list[Row]:
        complete, self._open = self._open, None
        return [] if complete is None else [complete]

    def _is_repeated(self, event: StepLogged | EpochEnded | Evaluated) -> bool:
        """Return whether an event of this kind is known for this step; if not, it is known from now on."""
        if isinstance(event, Evaluated):
            is_repeated = event.step in self._evaluated
            self._evaluated.add(event.step)
            return is_repeated
        is_repeated = event.step <= self._last_step[type(event)]
        self._last_step[type(event)] = max(event.step, self._last_step[type(event)])
        return is_repeated


def scalars_of(event: StepLogged | EpochEnded | Evaluated) -> dict[str, float | None]:
    """Return the values of an event by name; None for one that is not finite."""
    if isinstance(event, Evaluated):
        titles = METRIC_TITLES.values()
        return {f"evaluation/{title}": value for title, value in zip(titles, event.metrics.values(), strict=True)}
    if isinstance(event, EpochEnded):
        return {
            **{f"epoch_loss/{name}": value for name, value in event.losses.items()},
            "epoch/images_per_s": event.images_per_s,
            "epoch/seconds": event.seconds,
        }
    return {
        **{f"loss/{name}": value for name, value in event.losses.items()},
        "training/learning_rate": event.lr,
        "training/gradient_norm": event.grad_norm,
        "speed/images_per_s": event.images_per_s,
        "speed/data_wait_s": max(event.rank_data_wait_s, default=None),
        "speed/batches_ready": min(event.rank_batches_ready, default=None),
    }


def _values_of(event: StepLogged | EpochEnded | Evaluated) -> Values:
    return {"epoch": event.epoch, **{name: value for name, value in scalars_of(event).items() if value is not None}}
