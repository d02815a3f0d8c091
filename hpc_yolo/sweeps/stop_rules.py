"""The rules that end a trial early: pure functions of the values that the trials of a sweep have had so far.

Median stopping: Golovin et al., Google Vizier, KDD 2017, section 3.2.2. ASHA: Li et al., A System for Massively
Parallel Hyperparameter Tuning, MLSys 2020, with one difference: a trial that is not among the best at a rung ends, as
it cannot wait there for its promotion while it holds GPUs.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpc_yolo.spec.sweep_search import StopSpec

Curve = Mapping[int, float]
"""Value of a metric after each evaluated epoch, from 0; the higher, the better."""

MIN_CURVES = 3  # other trials without which a median says little


@dataclass(frozen=True)
class Decision:
    """A comparison of one trial with the others at an evaluation.

    Attributes:
        epoch: of the evaluation, from 0.
        value: of the trial.
        threshold: the lowest value with which it goes on.
        num_compared: number of other trials that it was compared with.
    """

    rule: str
    epoch: int
    value: float
    threshold: float
    num_compared: int

    @property
    def stops(self) -> bool:
        """True if the trial ends."""
        return self.value < self.threshold


def compares_after(stop: StopSpec, own: Curve, epoch: int) -> bool:
    """Return True if a trial with the curve `own` is compared after the evaluation of `epoch`, from 0."""
    if epoch + 1 < stop.after:
        return False
    return stop.rule == "median" or _first_in(own, *_rung_epochs(stop, epoch)) == epoch


def decide(stop: StopSpec, curves: Mapping[str, Curve], trial: str, epoch: int) -> Decision | None:
    """Return the decision about `trial` after the evaluation of `epoch`; None where nothing is compared.

    Args:
        stop: the rule.
        curves: of all trials of the sweep as far as they are known, `trial` too; of others, later epochs are ignored.
        trial: its name.
        epoch: from 0; its curve has a value there.
    """
    own = curves[trial]
    if not compares_after(stop, own, epoch):
        return None
    others = [curve for name, curve in curves.items() if name != trial]
    return (_median if stop.rule == "median" else _asha)(stop, own, others, epoch)


def rungs(after: int, factor: int, num_epochs: int) -> list[int]:
    """Return the numbers of trained epochs, up to `num_epochs`, after which ASHA compares."""
    found = [after]
    while found[-1] * factor <= num_epochs:
        found.append(found[-1] * factor)
    return [rung for rung in found if rung <= num_epochs]


def _median(stop: StopSpec, own: Curve, others: Sequence[Curve], epoch: int) -> Decision | None:
    """Compare the best value so far with the median of the means of the trials that have come as far."""
    means = [
        statistics.fmean(value for at, value in curve.items() if at <= epoch)
        for curve in others
        if max(curve, default=-1) >= epoch >= min(curve)
    ]
    if len(means) < MIN_CURVES:
        return None
    best = max(value for at, value in own.items() if at <= epoch)
    return Decision(stop.rule, epoch, best, statistics.median(means), len(means))


def _asha(stop: StopSpec, own: Curve, others: Sequence[Curve], epoch: int) -> Decision:
    """Compare the value at a rung with those of all trials that have reached it.

    While fewer than `factor` trials have reached it, the best of them goes on.
    """
    first, last = _rung_epochs(stop, epoch)
    reached = ((curve, _first_in(curve, first, last)) for curve in others)
    values = [curve[at] for curve, at in reached if at is not None]
    ranked = sorted([*values, own[epoch]], reverse=True)
    num_best = max(1, len(ranked) // stop.factor)
    return Decision(stop.rule, epoch, own[epoch], ranked[num_best - 1], len(values))


def _rung_epochs(stop: StopSpec, epoch: int) -> tuple[int, int]:
    """Return the first and last epoch, from 0, of the rung that `epoch` belongs to."""
    rung = rungs(stop.after, stop.factor, epoch + 1)[-1]
    return rung - 1, rung * stop.factor - 2


def _first_in(curve: Curve, first: int, last: int) -> int | None:
    """Return the first evaluated epoch of those from `first` to `last`; None where there is none."""
    return min((at for at in curve if first <= at <= last), default=None)
