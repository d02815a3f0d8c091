"""TensorBoard event files have the values of the journal, as read by TensorBoard."""

import json
import sys

import pytest
from status_runs import EVALUATED, START, STEP

from hpc_yolo.core.errors import SpecError
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.journal import read_events
from hpc_yolo.training.tensorboard import EventFiles


def events(tmp_path, *logged):
    path = tmp_path / "journal.jsonl"
    path.write_text(
        "".join(json.dumps({"time": 20.0 + number, "attempt": 1} | event) + "\n" for number, event in enumerate(logged))
    )
    return read_events(path)


def test_event_files_have_journal_values_and_repeated_steps_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = EventFiles(RunDirectory(tmp_path))
    logged = [
        START,
        STEP,
        STEP | {"step": 20, "losses": {"box": 9.0, "obj": 0.2}},
        START | {"step": 10},
        STEP | {"step": 20, "losses": {"box": None, "obj": 0.2}},
        EVALUATED,
    ]
    for event in events(tmp_path, *logged):
        files.add(event)
        if getattr(event, "step", 0) == 20 and event.losses["box"] == 9.0:
            files.close()
    files.close()
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    scalars = {
        tag: [(row.step, row.value, row.wall_time) for row in read.Scalars(tag)] for tag in read.Tags()["scalars"]
    }
    assert scalars["loss/box"] == [(10, pytest.approx(0.1), 21.0)], "null is skipped, and step 20 was repeated"
    assert [step for step, *_ in scalars["loss/obj"]] == [10, 20]
    assert scalars["evaluation/mAP50-95"] == [(100, pytest.approx(0.4), 25.0)]


def test_missing_package_error_has_install_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(SpecError, match=r"package tensorboard cannot be used on .*\n.*pip install"):
        EventFiles(RunDirectory(tmp_path))


def test_failed_write_stops_event_files_and_not_training(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("not a directory")
    files = EventFiles(RunDirectory(tmp_path))
    for event in events(tmp_path, START, STEP):
        files.add(event)
    files.close()
    assert "no further TensorBoard files" in capsys.readouterr().err
