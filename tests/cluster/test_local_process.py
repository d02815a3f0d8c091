"""Processes of this machine, as /proc shows them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_yolo.cluster.local_process import machine_id, process_arguments, process_start


def test_arguments_are_those_of_the_process() -> None:
    with subprocess.Popen(["cat", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"up")
        process.stdin.flush()
        process.stdout.read(2)  # before, /proc may still show this process
        assert (process_arguments(process.pid) or [])[:2] == ["cat", "-"]
    assert process_arguments(process.pid) == []


def test_arguments_of_a_zombie_are_empty() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process_arguments(process.pid) == []
    process.wait()


@pytest.mark.parametrize(("error", "expected"), [(None, None), (PermissionError(), None), (ProcessLookupError(), [])])
def test_arguments_that_are_not_readable_are_unknown(monkeypatch, error, expected) -> None:
    """As /proc with hidepid shows the processes of other users."""

    def not_readable(_path):
        raise FileNotFoundError

    def kill(*_args):
        if error is not None:
            raise error

    monkeypatch.setattr(Path, "read_bytes", not_readable)
    monkeypatch.setattr(os, "kill", kill)
    assert process_arguments(os.getpid()) == expected


def test_processes_have_different_start_times() -> None:
    assert process_start(os.getpid()) == process_start(os.getpid()) != process_start(1)


def test_process_that_has_ended_has_no_start_time_even_as_a_zombie() -> None:
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(ended.pid) is None
    ended.wait()
    assert process_start(ended.pid) is None


def test_machine_id_is_equal_within_a_pid_namespace_only() -> None:
    program = "from hpc_yolo.cluster.local_process import machine_id; print(machine_id())"
    arguments = [sys.executable, "-c", program]
    assert subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip() == machine_id()
    apart = subprocess.run(["unshare", "--pid", "--fork", *arguments], capture_output=True, text=True)
    if apart.returncode == 0:  # creating a namespace may not be permitted
        assert apart.stdout.strip() != machine_id()
