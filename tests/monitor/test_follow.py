"""hpc-yolo follow: what is printed of a run, on a terminal and elsewhere."""

import pytest
from status_runs import END, EVALUATED, START, append_events, make_run

from hpc_yolo.cluster.jobs import JobWatch
from hpc_yolo.monitor.follow import follow

FINISHED = END | {"outcome": "finished", "requeued": False, "detail": ""}
ODD_NAMES = ("car [rear]", "[red]x", "[/foo]", ":car:")


def class_metrics(name):
    return {"name": name, "num_labels": 1, "metrics": {"map50": 0.1}}


@pytest.fixture
def run(tmp_path):
    """A run of a process that has ended."""
    run = make_run(tmp_path, "run", executor="debug")
    append_events(run, START)
    return run


def test_names_of_classes_are_printed_as_they_are(run, capsys):
    append_events(run, EVALUATED | {"classes": [class_metrics(name) for name in ODD_NAMES]}, FINISHED)
    assert follow(run, JobWatch(run)) == 0
    printed = capsys.readouterr().out
    assert [name for name in ODD_NAMES if name not in printed] == []
