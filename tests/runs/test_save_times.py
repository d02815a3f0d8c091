"""Times of saves and steps, from the journal of a run."""

import pytest
from journal_events import started, stepped

from hpc_yolo.runs import save_times
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import CheckpointSaved, StepLogged
from hpc_yolo.runs.journal import JournalWriter
from hpc_yolo.runs.save_times import SaveTimes, measured_times, read_save_times


def saved(seconds: float, name: str = "state-0001-000000008.safetensors", size_bytes: int = 100) -> CheckpointSaved:
    return CheckpointSaved(epoch=0, step=8, path=f"checkpoints/{name}", size_bytes=size_bytes, seconds=seconds)


def logged(*rank_step_s: float) -> StepLogged:
    return stepped(rank_step_s=list(rank_step_s))


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], None),
        ([logged(1.0)], None),
        ([saved(9.0, "best.safetensors"), saved(9.0, "epoch3.safetensors")], None),  # weights alone
        ([saved(0.2), saved(0.5), saved(0.3)], SaveTimes(0.5, 0.0, 100)),
        ([saved(9.0), *[saved(0.2)] * 20], SaveTimes(0.2, 0.0, 100)),  # a slow first one is forgotten
        ([saved(0.2), logged(1.0, 4.0), logged(2.0, 1.0)], SaveTimes(0.2, 4.0, 100)),
        ([saved(0.2), saved(0.1, size_bytes=200)], SaveTimes(0.2, 0.0, 200)),
    ],
)
def test_longest_recent_save_and_slowest_step_count(events, expected):
    assert measured_times(events) == expected


@pytest.mark.parametrize(
    ("events", "own_step_s", "anothers_step_s"),
    [
        ([started(), logged(60.0), logged(1.0, 2.0), saved(0.2)], 2.0, 2.0),
        ([started(), logged(60.0), logged(1.0), started(), logged(1.5, 90.0), saved(0.2)], 1.0, 1.0),
        ([started(), logged(60.0), saved(0.2)], 60.0, 0.0),
        ([logged(60.0), saved(0.2), logged(1.0)], 60.0, 60.0),  # the end of a long journal
    ],
)
def test_first_steps_of_an_attempt_count_only_without_others(events, own_step_s, anothers_step_s):
    assert measured_times(events).step_s == own_step_s
    assert measured_times(events, of_another=True).step_s == anothers_step_s


def test_long_journal_is_read_from_its_end(tmp_path, monkeypatch):
    """A run of weeks has a journal of hundreds of megabytes, and `submit` reads it."""
    run = RunDirectory(tmp_path)
    writer = JournalWriter(run.journal, attempt=1)
    for seconds in (9.0, 0.25):
        writer.write(saved(seconds))
    last_bytes = len(run.journal.read_bytes().splitlines()[-1])
    monkeypatch.setattr(save_times, "TAIL_BYTES", last_bytes + 20)
    assert read_save_times(run) == SaveTimes(0.25, 0.0, 100)


def test_missing_or_unreadable_journal_has_no_times(tmp_path):
    run = RunDirectory(tmp_path)
    assert read_save_times(run) is None
    run.journal.mkdir()
    assert read_save_times(run) is None
