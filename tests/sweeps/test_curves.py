"""The curves of a sweep's trials, read from journals that grow."""

from pathlib import Path

import pytest
from journal_events import started, stepped

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, Evaluated
from hpc_yolo.runs.journal import JournalWriter
from hpc_yolo.runs.metrics import ClassMetrics, Metrics
from hpc_yolo.sweeps.curves import WORST, SweepCurves


@pytest.fixture
def trial(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "1-0001")
    run.path.mkdir()
    return run


def evaluated(epoch: int, map50: float = 0.5, map50_95: float = 0.3) -> Evaluated:
    metrics = Metrics(precision=0.6, recall=0.4, map50=map50, map50_95=map50_95)
    return Evaluated(
        **{"epoch": epoch, "step": epoch, "num_images": 8, "metrics": metrics, "images_per_s": 1.0, "seconds": 1.0},
        is_best=False,
        classes=[ClassMetrics(name="a", num_labels=2, metrics=metrics)],
    )


def write(run: RunDirectory, *events: object) -> None:
    writer = JournalWriter(run.journal, attempt=1)
    for event in events:
        writer.write(event)


@pytest.mark.parametrize(
    ("metric", "value"), [("fitness", 0.1 * 0.5 + 0.9 * 0.3), ("map50", 0.5), ("map50_95", 0.3), ("recall", 0.4)]
)
def test_values_of_the_metric_by_epoch(trial: RunDirectory, metric: str, value: float) -> None:
    write(trial, started(), stepped(), evaluated(0, 0.0, 0.0), stepped(), evaluated(2))
    assert SweepCurves(metric).read([trial]) == {
        "1-0001": {0: pytest.approx(0.0 if metric != "recall" else 0.4), 2: pytest.approx(value)}
    }


def test_only_what_is_new_is_read(trial: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    curves = SweepCurves("map50")
    write(trial, evaluated(0, 0.1))
    assert curves.read([trial]) == {"1-0001": {0: 0.1}}
    size = trial.journal.stat().st_size
    trial.journal.write_bytes(b"x" * size)  # what was read does not matter any more
    write(trial, evaluated(1, 0.2))
    with open(trial.journal, "ab") as file:
        file.write(b'{"event":"evaluated","epoch":2,')  # a line that is being written
    assert curves.read([trial]) == {"1-0001": {0: 0.1, 1: 0.2}}
    with open(trial.journal, "ab") as file:
        file.write(b'"metrics":{"map50":0.3}}\n')
    assert curves.read([trial]) == {"1-0001": {0: 0.1, 1: 0.2, 2: 0.3}}


def test_ended_trial_is_read_no_more_and_a_requeued_one_is(trial: RunDirectory) -> None:
    curves = SweepCurves("map50")
    ended = {"epoch": 1, "step": 1}
    write(trial, evaluated(0, 0.1), AttemptEnded(outcome="stopped", requeued=True, **ended))
    curves.read([trial])
    write(trial, evaluated(1, 0.2), AttemptEnded(outcome="finished", **ended))
    assert curves.read([trial]) == {"1-0001": {0: 0.1, 1: 0.2}}
    trial.journal.unlink()
    assert curves.read([trial]) == {"1-0001": {0: 0.1, 1: 0.2}}


def test_metric_that_is_not_finite_is_the_worst(trial: RunDirectory) -> None:
    write(trial, evaluated(0, float("nan")), evaluated(1, 0.2))
    assert SweepCurves("map50").read([trial]) == {"1-0001": {0: WORST, 1: 0.2}}


@pytest.mark.parametrize("content", [b"", b"not json\n", b'{"event":"evaluated",\xff}\n', b'{"event":"evaluated"}\n'])
def test_journal_without_a_curve_is_no_error(trial: RunDirectory, content: bytes) -> None:
    trial.journal.write_bytes(content)
    not_begun = RunDirectory(trial.path.parent / "1-0002")
    assert SweepCurves("map50").read([trial, not_begun]) == {}
