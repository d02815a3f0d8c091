"""Whether a job made of this machine's processes lives: a run must neither be started twice nor waited for in vain."""

from __future__ import annotations

import os
import platform
import subprocess

from hpc_yolo.cluster.local import local_job_is_alive


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
