"""The curves of the trials of a sweep, from their journals: each byte is read once, and an ended trial no more."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.metrics import Metrics

_EVALUATED, _ENDED = b'{"event":"evaluated",', b'{"event":"attempt_ended",'  # as the journal's writer begins them
WORST = -math.inf  # for a metric that is not finite


class _Evaluated(msgspec.Struct):
    epoch: int
    metrics: dict[str, float | None]


class _Ended(msgspec.Struct):
    requeued: bool = False


_EVALUATED_DECODER, _ENDED_DECODER = msgspec.json.Decoder(_Evaluated), msgspec.json.Decoder(_Ended)


def metric_value(metrics: Mapping[str, float | None], metric: str) -> float:
    """Return the value of `metric` of an evaluation, `WORST` where one of its metrics is not finite."""
    if not all(value is not None and math.isfinite(value) for value in metrics.values()):
        return WORST
    return float(getattr(msgspec.convert(metrics, Metrics), metric))


class TrialCurve:
    """The curve of one trial, which grows with its journal."""

    def __init__(self, journal: Path, metric: str) -> None:
        self.values: dict[int, float] = {}
        self._journal, self._metric = journal, metric
        self._offset_bytes = 0
        self._has_ended = False

    def read(self) -> None:
        """Add what is new. A trial that has not begun, or cannot be read now, has nothing new."""
        if self._has_ended:
            return
        try:
            with open(self._journal, "rb") as file:
                file.seek(self._offset_bytes)
                added = file.read()
        except OSError:
            return
        whole_bytes = added.rfind(b"\n") + 1
        self._offset_bytes += whole_bytes
        for line in added[:whole_bytes].split(b"\n"):
            self._add(line)

    def _add(self, line: bytes) -> None:
        try:
            if line.startswith(_EVALUATED):
                event = _EVALUATED_DECODER.decode(line)
                self.values[event.epoch] = metric_value(event.metrics, self._metric)
                self._has_ended = False
            elif line.startswith(_ENDED):
                self._has_ended = not _ENDED_DECODER.decode(line).requeued
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return


class SweepCurves:
    """The curves of several trials."""

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._curves: dict[Path, TrialCurve] = {}

    def read(self, trials: Iterable[RunDirectory]) -> dict[str, dict[int, float]]:
        """Return the values by epoch, from 0, of each of `trials` that has any, by name."""
        found = {}
        for trial in trials:
            curve = self._curves.get(trial.path)
            if curve is None:
                curve = self._curves[trial.path] = TrialCurve(trial.journal, self._metric)
            curve.read()
            if curve.values:
                found[trial.name] = curve.values
        return found
