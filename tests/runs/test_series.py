"""The series of a run has each step once, in whatever parts its journal is read."""

import pytest
from growing_journal import events, expected_steps
from journal_events import started, stepped

from hpc_yolo.runs.events import AttemptEnded, EpochEnded, Evaluated
from hpc_yolo.runs.metrics import Metrics
from hpc_yolo.runs.series import Series


def evaluated(step, map50=0.5):
    values = {"num_images": 1, "images_per_s": 1.0, "seconds": 1.0, "is_best": True, "classes": []}
    return Evaluated(epoch=step // 5 - 1, step=step, metrics=Metrics(map50=map50), **values)


def epoch_ended(step):
    return EpochEnded(epoch=step // 5 - 1, step=step, losses={"box": 1.0}, lr=0.1, images_per_s=1.0, seconds=2.0)


def end(*, requeued):
    return AttemptEnded(outcome="stopped", epoch=0, step=0, requeued=requeued)


def steps(*numbers):
    return [stepped(step=number) for number in numbers]


def rows_of(*logged):
    series = Series()
    return [row for event in logged for row in series.add(event)]


@pytest.mark.parametrize(
    ("logged", "expected"),
    [
        ([], []),
        ([started(), stepped(step=1)], []),
        ([stepped(step=1), stepped(step=2)], [1]),
        ([stepped(step=1), end(requeued=True)], []),
        ([stepped(step=1), end(requeued=False)], [1]),
        ([*steps(1, 2), started(attempt=2), *steps(1, 2, 3)], [1, 2]),
        ([stepped(step=4), stepped(step=6), started(attempt=2), stepped(step=5), stepped(step=7)], [4, 6]),
        ([*steps(1), end(requeued=False), started(), *steps(1, 2), end(requeued=False)], [1, 2]),
        ([stepped(step=5), stepped(step=6), evaluated(5), evaluated(5), stepped(step=7)], [5, 5, 6]),
        ([evaluated(10), evaluated(5), evaluated(10), end(requeued=False)], [5, 10]),
    ],
    ids=[
        "nothing", "open", "later step", "requeued", "ended", "repeated", "between lines", "submitted again",
        "evaluation aside", "evaluations in any order",
    ],
)  # fmt: skip
def test_rows_by_step(logged, expected):
    rows = rows_of(*logged)
    assert [row.step for row in rows] == expected
    assert [row.index for row in rows] == list(range(len(rows)))


def test_row_joins_values_of_its_step_over_a_preemption():
    (row,) = rows_of(
        stepped(step=5, time=1.0, losses={"box": 0.25, "obj": None}),
        started(attempt=2),
        stepped(step=5, time=9.0, losses={"box": 0.75}),
        epoch_ended(5),
        evaluated(5, map50=0.5),
        end(requeued=False),
    )
    assert row.time == 1.0
    assert row.values == {
        **{"epoch": 0, "loss/box": 0.25, "training/learning_rate": 0.1, "speed/images_per_s": 1.0},
        **{"epoch_loss/box": 1.0, "epoch/images_per_s": 1.0, "epoch/seconds": 2.0},
        **{"evaluation/precision": 0.0, "evaluation/recall": 0.0, "evaluation/mAP50": 0.5, "evaluation/mAP50-95": 0.0},
    }


def test_preempted_run_has_each_step_once():
    rows = rows_of(*(event for _, event in events()))
    assert [row.step for row in rows] == expected_steps()
    assert [row.step for row in rows if "evaluation/mAP50" in row.values] == list(range(50, 401, 50))
