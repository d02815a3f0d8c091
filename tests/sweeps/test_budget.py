"""Hours of GPUs that the trials of a sweep have taken."""

import pytest
from journal_events import started, stepped

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.journal import JournalWriter
from hpc_yolo.sweeps.budget import taken_gpu_hours


def test_attempt_that_was_killed_takes_no_time_after_its_last_event(tmp_path):
    """It would use up the budget, hour after hour, until it is submitted again."""
    run = RunDirectory(tmp_path)
    events = started(time=1000.0), stepped(time=2800.0)
    times = iter(event.time for event in events)
    journal = JournalWriter(run.journal, attempt=1, clock=lambda: next(times))
    for event in events:
        journal.write(event)
    assert taken_gpu_hours([run, RunDirectory(tmp_path / "none")]) == pytest.approx(0.5)
