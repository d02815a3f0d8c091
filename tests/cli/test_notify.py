"""The commands of messages: a test message, and the process beside the tasks of a job."""

from __future__ import annotations

import itertools
import json
import os
import time

import pytest
from click.testing import CliRunner
from status_runs import START, STEP, append_events, make_run

from hpc_yolo.cli.notify import notify, notify_problems
from hpc_yolo.notify import problems
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.load import dump_spec
from hpc_yolo.spec.notify import NotifySpec
from hpc_yolo.spec.schema import Spec

COMMAND = 'cat >> "$HPC_YOLO_DIRECTORY/messages"'


@pytest.fixture
def run(tmp_path):
    run = make_run(tmp_path, "run")
    spec = Spec(name="run", model="yolov5n", data=DataSpec(path="/d.yaml"), notify=NotifySpec(command=COMMAND))
    run.spec.write_text(dump_spec(spec))
    return run


def test_run_or_spec_without_the_section_says_what_to_add(tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text("name: a\nmodel: yolov5n\ndata: d.yaml\n")
    done = CliRunner().invoke(notify, ["test", str(spec)])
    assert done.exit_code != 0 and "has no notify" in str(done.exception)
    assert "add notify: {mail: me@example.org}" in str(done.exception)


def test_message_of_a_test_is_sent_by_every_way(run):
    done = CliRunner().invoke(notify, ["test", str(run.path)])
    assert (done.exit_code, done.output) == (0, "command: sent\n")
    facts = json.loads((run.path / "messages").read_text())
    assert facts["subject"] == "[hpc-yolo] run sends a test: messages about this run arrive here"
    assert not run.notices.exists(), "a test is no message about an end"
    failed = CliRunner().invoke(notify, ["test", str(run.path), "--set", "notify.command=exit 3"])
    assert (failed.exit_code, failed.output) == (1, "command: not sent: exit code 3\n")


def test_process_beside_the_tasks_reports_a_problem_and_ends_with_the_script(run, monkeypatch):
    monkeypatch.setattr(problems, "POLL_S", 0.0)
    monkeypatch.setattr(problems, "END_POLL_S", 0.01)
    soon = time.time() + 60
    append_events(run, START | {"time": soon}, STEP | {"losses": {"box": None}, "time": soon})
    parents = itertools.count()  # the script ends after a few looks, or when the message is there
    monkeypatch.setattr(os, "getppid", lambda: max(next(parents) - 100, int((run.path / "messages").exists()), 0))
    CliRunner().invoke(notify_problems, [str(run.path)], catch_exceptions=False)
    assert json.loads((run.path / "messages").read_text())["reason"] == "the loss is not a number"


def test_process_beside_the_tasks_ends_where_the_run_is_never_made(tmp_path, monkeypatch):
    parents = iter([1, 1, 2])
    monkeypatch.setattr(os, "getppid", lambda: next(parents, 2))
    monkeypatch.setattr("hpc_yolo.launch.beside.POLL_S", 0.01)
    done = CliRunner().invoke(notify_problems, [str(tmp_path / "none")], catch_exceptions=False)
    assert done.exit_code == 0
