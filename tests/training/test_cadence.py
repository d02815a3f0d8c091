"""The steps and epochs after which a run logs, evaluates, saves and ends."""

from __future__ import annotations

import msgspec
import pytest

from hpc_yolo.spec.checkpoint import CheckpointSpec
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.training.cadence import Cadence, cadence_of

NEVER = Cadence(
    epochs=6,
    steps_per_epoch=100,
    val_every=0,
    patience=0,
    state_every_epochs=0,
    model_every_epochs=-1,
    log_every_steps=10,
)


def with_periods(**periods: int) -> Cadence:
    return Cadence(**{name: getattr(NEVER, name) for name in Cadence.__dataclass_fields__} | periods)


@pytest.mark.parametrize(
    ("cadence", "evaluated", "saved", "kept"),
    [
        (NEVER, [5], [], []),
        (with_periods(val_every=1, state_every_epochs=1, model_every_epochs=1), *[[0, 1, 2, 3, 4, 5]] * 3),
        (with_periods(val_every=2, state_every_epochs=4, model_every_epochs=3), [1, 3, 5], [3], [2, 5]),
        (with_periods(val_every=4), [3, 5], [], []),
    ],
    ids=["last epoch only", "every epoch", "several periods", "period that does not divide epochs"],
)
def test_evaluations_and_saves_follow_their_periods(cadence, evaluated, saved, kept):
    epochs = range(cadence.epochs)
    assert [epoch for epoch in epochs if cadence.evaluates_after(epoch)] == evaluated
    assert [epoch for epoch in epochs if cadence.saves_state_after(epoch)] == saved
    assert [epoch for epoch in epochs if cadence.saves_model_after(epoch)] == kept


@pytest.mark.parametrize(
    ("periods", "finished_epochs", "best_epoch", "is_over"),
    [
        ({}, 5, 0, False),
        ({}, 6, 5, True),
        ({"val_every": 1, "patience": 2}, 3, -1, False),
        ({"val_every": 1, "patience": 2}, 3, 1, False),
        ({"val_every": 1, "patience": 2}, 3, 0, True),
        ({"val_every": 2, "patience": 2}, 3, 1, False),
        ({"val_every": 2, "patience": 2}, 4, 1, True),
        ({"val_every": 0, "patience": 2}, 5, 0, False),
        ({"val_every": 1, "patience": 0}, 5, 0, False),
    ],
)
def test_training_is_over_after_last_epoch_or_patience(periods, finished_epochs, best_epoch, is_over):
    assert with_periods(**periods).is_over(finished_epochs, best_epoch) is is_over


@pytest.mark.parametrize(
    ("periods", "waiting", "is_over"),
    [
        ({"val_every": 1, "patience": 2}, [], True),
        ({"val_every": 1, "patience": 2}, [3], True),
        ({"val_every": 1, "patience": 2}, [2, 3], False),
        ({"val_every": 1, "patience": 2}, [3, 4], True),
        ({"val_every": 2, "patience": 2}, [3], False),
        ({"val_every": 1, "patience": 9}, [3], False),
    ],
)
def test_patience_counts_known_evaluations_only(periods, waiting, is_over):
    """Five of six epochs are done, the first evaluation is the best known one."""
    assert with_periods(**periods).is_over(5, 0, waiting) is is_over


def test_run_is_over_after_last_epoch_although_results_are_missing():
    assert with_periods(val_every=1, patience=2).is_over(6, 0, [1, 2])


@pytest.mark.parametrize(
    ("log_every_steps", "steps_per_epoch", "interval"),
    [
        ("auto", 1, 1),
        ("auto", 9, 1),
        ("auto", 10, 1),
        ("auto", 25, 2),
        ("auto", 500, 50),
        ("auto", 9000, 50),
        (7, 9, 7),
    ],
)
def test_log_interval_is_a_tenth_of_epoch_up_to_50_steps_or_as_in_spec(log_every_steps, steps_per_epoch, interval):
    cadence = cadence_of(TrainSpec(log_every_steps=log_every_steps), CheckpointSpec(), steps_per_epoch)
    assert [step for step in range(1, 2 * interval + 1) if cadence.logs_after(step)] == [interval, 2 * interval]


def test_cadence_has_periods_of_spec():
    train = TrainSpec(epochs=7, val_every=2, patience=3, save_period=4)
    cadence = cadence_of(train, msgspec.structs.replace(CheckpointSpec(), every_epochs=5), steps_per_epoch=11)
    assert cadence == Cadence(
        7, 11, val_every=2, patience=3, state_every_epochs=5, model_every_epochs=4, log_every_steps=1
    )
