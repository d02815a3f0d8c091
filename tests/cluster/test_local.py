"""Whether a job made of this machine's processes lives: a run must neither be started twice nor waited for in vain."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

from hpc_yolo.cluster.local import local_job_is_alive, machine_id, process_start


def test_a_local_job_lives_as_long_as_its_controller() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as controller:
        assert local_job_is_alive(str(controller.pid), platform.node())
    assert not local_job_is_alive(str(controller.pid), platform.node())


def test_a_finished_child_that_nobody_has_read_is_over() -> None:
    """Such a zombie still has a process id."""
    controller = subprocess.Popen(["true"])
    os.waitid(os.P_PID, controller.pid, os.WEXITED | os.WNOWAIT)
    assert not local_job_is_alive(str(controller.pid), platform.node())
    controller.wait()


def test_a_process_of_somebody_else_lives() -> None:
    assert local_job_is_alive("1", platform.node())


def test_a_job_on_another_machine_is_believed() -> None:
    assert local_job_is_alive("1", "another-machine")


def test_a_process_number_that_is_given_again_has_another_start() -> None:
    assert process_start(os.getpid()) == process_start(os.getpid()) != process_start(1)


def test_what_has_ended_has_no_start_even_before_it_is_read() -> None:
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(ended.pid) is None
    ended.wait()
    assert process_start(ended.pid) is None


def test_a_machine_is_the_same_for_its_processes() -> None:
    """And another one where process numbers mean something else: after a restart, or in a container of its own."""
    program = "from hpc_yolo.cluster.local import machine_id; print(machine_id())"
    words = [sys.executable, "-c", program]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip() == machine_id()
    apart = subprocess.run(["unshare", "--pid", "--fork", *words], capture_output=True, text=True)
    if apart.returncode == 0:  # who may not make one has none to tell apart
        assert apart.stdout.strip() != machine_id()
