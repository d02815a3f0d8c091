"""Stop rules on a recorded table of 81 curves, against the published algorithms written directly, and Optuna's ASHA."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest

from hpc_yolo.spec.sweep_search import StopSpec
from hpc_yolo.sweeps.stop_rules import MIN_CURVES, compares_after, decide, rungs

TABLE: list[list[float]] = json.loads(Path(__file__).with_name("curves_81.json").read_text())
NUM_EPOCHS = len(TABLE[0])
Seen = dict[int, list[float]]  # trial -> values of its epochs so far


def replay(num_workers: int, stops: Callable[[Seen, int], bool]) -> dict[int, int]:
    """Train the table's trials on some workers, each an epoch a round; return trial -> number of epochs it trained.

    Args:
        num_workers: that train at once; a free one takes the next trial.
        stops: (values so far, trial) -> the trial ends now.
    """
    waiting, seen = list(range(len(TABLE))), {}
    working: list[int] = []
    while waiting or working:
        while waiting and len(working) < num_workers:
            working.append(waiting.pop(0))
        for trial in list(working):
            values = seen.setdefault(trial, [])
            values.append(TABLE[trial][len(values)])
            if len(values) == NUM_EPOCHS or stops(seen, trial):
                working.remove(trial)
    return {trial: len(values) for trial, values in seen.items()}


def by_our_rule(stop: StopSpec) -> Callable[[Seen, int], bool]:
    def stops(seen: Seen, trial: int) -> bool:
        curves = {f"1-{number:04}": dict(enumerate(values)) for number, values in seen.items()}
        decision = decide(stop, curves, f"1-{trial:04}", len(seen[trial]) - 1)
        return decision is not None and decision.stops

    return stops


def by_published_asha(after: int, factor: int) -> Callable[[Seen, int], bool]:
    """Algorithm 2 of Li et al. 2020: at rung k a trial is promoted if it is in top_k(rung k, |rung k| / factor)."""
    rung_values: dict[int, dict[int, float]] = {}

    def stops(seen: Seen, trial: int) -> bool:
        resource, k = len(seen[trial]), 0
        while after * factor**k < resource:
            k += 1
        if after * factor**k != resource:
            return False
        rung = rung_values.setdefault(k, {})
        rung[trial] = seen[trial][-1]
        num_promoted = max(int(len(rung) / factor), 1)
        worst_promoted = sorted(rung.values())[-num_promoted]
        return rung[trial] < worst_promoted

    return stops


def by_optuna_asha(after: int, factor: int) -> Callable[[Seen, int], bool]:
    """The successive halving of Optuna, which is asynchronous."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=after, reduction_factor=factor)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    trials: dict[int, optuna.Trial] = {}

    def stops(seen: Seen, trial: int) -> bool:
        running = trials.setdefault(trial, None) or study.ask()
        trials[trial] = running
        running.report(seen[trial][-1], len(seen[trial]))
        return running.should_prune()

    return stops


def by_vizier_median(after: int) -> Callable[[Seen, int], bool]:
    """Golovin et al. 2017: the best value by step s is strictly worse than the median of the running averages to s."""

    def stops(seen: Seen, trial: int) -> bool:
        step = len(seen[trial])
        averages = [
            sum(values[:step]) / step for other, values in seen.items() if other != trial and len(values) >= step
        ]
        if step < after or len(averages) < MIN_CURVES:
            return False
        averages.sort()
        middle = len(averages) // 2
        median = averages[middle] if len(averages) % 2 else (averages[middle - 1] + averages[middle]) / 2
        return max(seen[trial]) < median

    return stops


@pytest.mark.parametrize("num_workers", [1, 4, 9, 81])
@pytest.mark.parametrize(("after", "factor"), [(1, 3), (2, 2), (3, 4), (27, 3)])
def test_asha_decides_as_published(after: int, factor: int, num_workers: int) -> None:
    ours = replay(num_workers, by_our_rule(StopSpec(rule="asha", after=after, factor=factor)))
    assert ours == replay(num_workers, by_published_asha(after, factor))
    assert len(ours) == 81


def test_asha_decides_as_optuna() -> None:
    ours = replay(9, by_our_rule(StopSpec(rule="asha", after=1, factor=3)))
    assert ours == replay(9, by_optuna_asha(1, 3))


def test_asha_spends_few_epochs_and_keeps_a_good_trial() -> None:
    trained = replay(9, by_our_rule(StopSpec(rule="asha", after=1, factor=3)))
    assert sum(trained.values()) < 0.3 * 81 * NUM_EPOCHS
    best = max(TABLE[trial][-1] for trial, epochs in trained.items() if epochs == NUM_EPOCHS)
    assert best > sorted(values[-1] for values in TABLE)[-8]


@pytest.mark.parametrize("num_workers", [1, 4, 81])
@pytest.mark.parametrize("after", [1, 5, 27])
def test_median_decides_as_published(after: int, num_workers: int) -> None:
    ours = replay(num_workers, by_our_rule(StopSpec(rule="median", after=after)))
    assert ours == replay(num_workers, by_vizier_median(after))
    assert (min(ours.values()) < NUM_EPOCHS) is (after < NUM_EPOCHS)


def test_rungs_are_powers_of_the_factor_times_the_first() -> None:
    assert rungs(10, 3, 300) == [10, 30, 90, 270]
    assert rungs(10, 3, 9) == []


def evaluated_every(period: int, *values: float) -> dict[int, float]:
    return {period * (index + 1) - 1: value for index, value in enumerate(values)}


def compared(after: int, period: int, num_epochs: int) -> Iterator[int]:
    stop, own = StopSpec(rule="asha", after=after), {}
    for epoch in range(period - 1, num_epochs, period):
        own[epoch] = 0.5
        if compares_after(stop, own, epoch):
            yield epoch


@pytest.mark.parametrize(
    ("after", "period", "expected"),
    [(10, 1, [9, 29, 89]), (10, 3, [11, 29, 89]), (10, 7, [13, 34, 90]), (4, 10, [9, 19, 39])],
    ids=["at the rung", "rung between evaluations", "all between", "two rungs at once"],
)
def test_asha_compares_at_the_first_evaluation_from_a_rung_on(after: int, period: int, expected: list[int]) -> None:
    assert list(compared(after, period, 100)) == expected


def test_decision_names_threshold_and_number_of_others() -> None:
    curves = {f"t{number}": {9: value} for number, value in enumerate([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])}
    decision = decide(StopSpec(rule="asha"), curves, "t2", 9)
    assert decision is not None
    assert (decision.rule, decision.epoch, decision.value) == ("asha", 9, 0.3)
    assert (decision.threshold, decision.num_compared, decision.stops) == (0.5, 5, True)
    assert not decide(StopSpec(rule="asha"), curves, "t4", 9).stops


def test_value_equal_to_the_threshold_goes_on() -> None:
    curves = {name: {9: 0.5} for name in "abcdef"}
    assert not decide(StopSpec(rule="asha"), curves, "a", 9).stops
    assert not decide(StopSpec(rule="median"), curves, "a", 9).stops


@pytest.mark.parametrize(
    ("stop", "others", "epoch"),
    [
        (StopSpec(rule="asha"), {}, 8),
        (StopSpec(rule="asha"), {}, 10),
        (StopSpec(rule="median"), {"a": {9: 0.9}, "b": {9: 0.9}}, 9),
        (StopSpec(rule="median"), {name: {8: 0.9} for name in "abcd"}, 9),
        (StopSpec(rule="median"), {name: {} for name in "abcd"}, 9),
    ],
    ids=["before the first rung", "between rungs", "two others", "others not as far", "others without a value"],
)
def test_nothing_is_compared(stop: StopSpec, others: dict[str, dict[int, float]], epoch: int) -> None:
    own = dict.fromkeys(range(epoch + 1), 0.1)
    assert decide(stop, {**others, "own": own}, "own", epoch) is None


def test_first_trial_at_a_rung_goes_on() -> None:
    decision = decide(StopSpec(rule="asha"), {"own": {9: 0.0}}, "own", 9)
    assert decision is not None
    assert not decision.stops
    assert (decision.threshold, decision.num_compared) == (0.0, 0)
