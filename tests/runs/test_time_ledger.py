"""Where the seconds of a run went: each is counted once, under the kind that it deserves."""

import msgspec
import pytest
from journal_events import started, stepped

from hpc_yolo.runs.events import (
    AttemptEnded,
    CheckpointSaved,
    DataStaging,
    EpochEnded,
    Evaluated,
    RankLocation,
    TrainingLeft,
    WarningRaised,
)
from hpc_yolo.runs.metrics import Metrics
from hpc_yolo.runs.time_ledger import KINDS, make_ledger

RANKS = [RankLocation(rank=rank, local_rank=rank, node_rank=0, host="n1", pid=1) for rank in range(2)]


def begun(time, attempt=1, step=0, epoch=0, device="H100", **fields):
    sizes = {"world_size": 2, "epochs": 4, "steps_per_epoch": 20, "num_images": 160}
    return started(time, attempt, step, epoch=epoch, device=device, ranks=RANKS, **sizes, **fields)


def steps(time, step, attempt=1, epoch=0, waits=(0.0, 0.0), step_s=1.0):
    waited = {"rank_step_s": [step_s, step_s], "rank_data_wait_s": list(waits), "rank_mem_bytes": [1, 1]}
    return stepped(time, step, attempt, epoch=epoch, losses={"box": 1.0}, **waited)


def epoch_ended(time, step, attempt=1, epoch=0):
    values = {"losses": {"box": 1.0}, "lr": 0.01, "images_per_s": 8.0, "seconds": 20.0}
    return EpochEnded(time=time, attempt=attempt, epoch=epoch, step=step, **values)


def aside(time, step):
    return msgspec.structs.replace(evaluated(time, step), is_aside=True)


def evaluated(time, step, attempt=1, epoch=0):
    values = {"metrics": Metrics(map50=0.5), "images_per_s": 9.0}
    rest = {"num_images": 8, "seconds": 5.0, "is_best": True, "classes": []}
    return Evaluated(time=time, attempt=attempt, epoch=epoch, step=step, **values, **rest)


def saved(time, step, seconds, attempt=1):
    return CheckpointSaved(time=time, attempt=attempt, epoch=0, step=step, path="x", size_bytes=1, seconds=seconds)


def left(time, step, attempt=1, epoch=0, signal=15):
    return TrainingLeft(time=time, attempt=attempt, epoch=epoch, step=step, signal=signal)


def ended(time, step, attempt=1, outcome="stopped", requeued=True, epoch=0):
    return AttemptEnded(time=time, attempt=attempt, epoch=epoch, step=step, outcome=outcome, requeued=requeued)


def staged(time, seconds, attempt=1, is_over=True):
    sizes = {"num_nodes": 1, "done_bytes": 9, "total_bytes": 9, "copied_bytes": 9, "bytes_per_s": 1.0}
    return DataStaging(time=time, attempt=attempt, stage="auto", seconds=seconds, is_over=is_over, **sizes)


# A run whose every second is known: submitted at 100, two preemptions, one of them in an evaluation, and a lost node.
WHOLE = [
    begun(140, process_started=130),
    steps(150, 10, waits=(0.1, 0.2)),
    saved(151, 10, 0.5),
    steps(160, 20),
    epoch_ended(160, 20),
    evaluated(165, 20),
    steps(175, 30, epoch=1),
    left(180, 35, epoch=1),
    saved(182, 35, 2.0),
    ended(182, 35, epoch=1),
    begun(205, 2, 35, 1, process_started=200),
    steps(210, 40, 2, 1),
    epoch_ended(210, 40, 2, 1),
    left(213, 40, 2, 1),
    saved(214, 40, 1.0, 2),
    ended(214, 40, 2, epoch=1),
    begun(245, 3, 40, 1, process_started=240),
    evaluated(250, 40, 3, 1),
    steps(260, 50, 3, 2),
    steps(270, 60, 3, 2),
    begun(330, 4, 45, 2, process_started=320),
    ended(330, 60, 3),  # said on its behalf by the next attempt, which cannot know when that was
    steps(345, 60, 4, 2),
    epoch_ended(345, 60, 4, 2),
    evaluated(350, 60, 4, 2),
    left(350, 60, 4, 2, signal=0),
    saved(351, 60, 1.0, 4),
    ended(351, 60, 4, "finished", requeued=False),
]


def test_every_second_of_an_eventful_run_has_its_kind():
    ledger = make_ledger(WHOLE, [100.0])
    assert ledger.seconds == pytest.approx(
        {
            "queue": 30 + 18 + 26 + 50,  # 100-130, 182-200, 214-240, 270-320
            "startup": 10 + 5 + 5 + 10,
            "staging": 0,
            "data": 2,  # the slower rank's fifth of the ten seconds to step 10
            "step": 8 + 10 + 10 + 5 + 5 + 5 + 15,
            "validation": 5 + 5 + 5,
            "save": 2 + 1 + 1,
            "lost": 3 + 15,  # an evaluation that was cut off; steps 46 to 60, done twice
        }
    )
    assert list(ledger.seconds) == list(KINDS)
    assert (ledger.total_s, ledger.away_s) == (pytest.approx(351 - 100), 0)
    assert ledger.gpu_s == pytest.approx(2 * (52 + 14 + 30 + 31))


@pytest.mark.parametrize("cut", range(1, len(WHOLE)))
def test_ledger_adds_up_wherever_the_journal_ends(cut):
    """A run is looked at while it runs: with whatever events there are, nothing is counted twice or left out."""
    events = WHOLE[:cut]
    now = max(event.time for event in events) + 3
    newest = max(event.attempt for event in events)
    alive = not any(isinstance(event, AttemptEnded) and event.attempt == newest for event in events)
    ledger = make_ledger(events, [100.0], now=now)
    end = now if alive else max(event.time for event in events)
    assert ledger.total_s + ledger.away_s == pytest.approx(end - 100)
    assert min(ledger.seconds.values()) >= 0


@pytest.mark.parametrize(
    ("events", "submitted", "expected"),
    [
        ([], [5.0], {}),
        # On CPUs, started by hand, by a version that did not say when its processes began.
        ([begun(10, device="cpu"), steps(20, 10)], [], {"step": 10}),
        # A start that failed before its first step.
        (
            [WarningRaised(time=15, attempt=1, message="x"), ended(18, 0, outcome="failed")],
            [10.0],
            {"queue": 5, "lost": 3},
        ),
        # Images were copied to the node for four of the ten seconds before the first step.
        (
            [staged(14, 2, is_over=False), staged(16, 4), begun(20, process_started=10), steps(30, 10)],
            [5.0],
            {"queue": 5, "startup": 6, "staging": 4, "step": 10},
        ),
        # An error: what had been trained counts as trained until it is done again, the rest is lost.
        ([begun(10), steps(20, 10), ended(24, 0, outcome="failed", requeued=False)], [], {"step": 10, "lost": 4}),
        # Ended for good at 20, submitted again at 1000: nobody waited in between.
        (
            [begun(10), ended(20, 10, requeued=False), begun(1010, 2, 10), ended(1020, 20, 2, "finished")],
            [5.0, 1000.0],
            {"queue": 5 + 10, "step": 20},
        ),
        # The same by hand: no queue anywhere.
        ([begun(10), ended(20, 10, requeued=False), begun(1010, 2, 10), ended(1020, 20, 2)], [], {"step": 20}),
        # Another job evaluated the first epoch meanwhile.
        ([begun(10), epoch_ended(20, 10), aside(30, 10), steps(31, 20, epoch=1)], [], {"step": 21}),
        # Numbers went bad at step 14, and all ranks went back to step 10.
        ([begun(10), steps(20, 10), steps(24, 14), steps(31, 12)], [], {"step": 10 + 1 + 7, "lost": 3}),
    ],
    ids=[
        "nothing",
        "by hand",
        "failed start",
        "staged",
        "error",
        "submitted again",
        "again by hand",
        "aside",
        "rolled back",
    ],
)
def test_ledger_of_other_journals(events, submitted, expected):
    found = {kind: seconds for kind, seconds in make_ledger(events, submitted).seconds.items() if seconds}
    assert found == pytest.approx(expected)


def test_attempt_that_has_not_begun_to_train_is_starting():
    """It may be alive and copying; only when it has ended without a step is its time lost."""
    events = [staged(14, 3, is_over=False)]
    seconds = make_ledger(events, [10.0], now=20).seconds
    assert (seconds["staging"], seconds["startup"], seconds["lost"]) == (3, 3, 0)
    assert make_ledger([*events, ended(20, 0, outcome="failed")], [10.0]).seconds["lost"] == 6


def test_time_away_and_time_on_cpus_are_separate():
    events = [begun(10, device="cpu"), ended(20, 10, requeued=False), begun(1010, 2, 10), ended(1020, 20, 2)]
    ledger = make_ledger(events, [5.0, 1000.0])
    assert (ledger.away_s, ledger.rank_s) == (980, 40)
    assert ledger.gpu_s == pytest.approx(2 * 10)  # only the second start was on GPUs
