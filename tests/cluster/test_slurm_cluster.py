"""The test cluster itself: a test session that dies must not leave daemons on the machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import slurm_cluster as rig
from waiting import wait_until

START_AND_WAIT = """
from slurm_cluster import SlurmCluster
cluster = SlurmCluster()
print(cluster.directory, flush=True)
cluster.start()
cluster.submit("#!/bin/sh\\nsrun sleep 600", "--nodes=2")
job_id = cluster.submit("#!/bin/sh\\nsetsid sleep 601 & sleep 602")
cluster.wait_for_state(job_id, "RUNNING")
print(cluster.supervisor_pid, flush=True)
input()
"""


@pytest.mark.slurm
@pytest.mark.parametrize("victim", ["session", "session and supervisor"])
def test_killed_session_leaves_nothing_of_its_cluster(victim: str, slurm_cluster: rig.SlurmCluster) -> None:
    """Neither daemons nor jobs nor files; even the supervisor's death is made good by the next start."""
    assert slurm_cluster.directory.exists()
    command = [sys.executable, "-c", START_AND_WAIT]
    environment = os.environ | {"PYTHONPATH": str(Path(rig.__file__).parent)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as session:
        assert session.stdout is not None
        directory, supervisor = Path(session.stdout.readline().strip()), int(session.stdout.readline())
        assert len(list(rig.processes_of(directory))) > 6
        if victim == "session and supervisor":
            os.kill(supervisor, signal.SIGKILL)
        session.kill()
    if victim == "session and supervisor":
        wait_until(lambda: rig.living_supervisor(directory) is None, "the supervisor to be dead")
        rig.sweep_dead_clusters()
    wait_until(lambda: not directory.exists(), f"{directory} to go")
    assert list(rig.processes_of(directory)) == []
    slurm_cluster.wait_for_nodes()


def test_cluster_is_brought_up_and_down_by_command(slurm_cluster: rig.SlurmCluster) -> None:
    """The printed line is all that sinfo needs."""
    command = [sys.executable, rig.__file__]
    directory = Path(tempfile.gettempdir(), f"my-cluster-{os.getpid()}")  # munge wants a way there that is open to all
    shown = subprocess.run([*command, "up", str(directory)], capture_output=True, text=True, check=True)
    assert shown.stdout == f"export SLURM_CONF={directory}/slurm.conf\n"
    nodes = slurm_cluster.run("sinfo", "--noheader", "--format=%N", env={"SLURM_CONF": f"{directory}/slurm.conf"})
    assert set(nodes.split()) == {"gpu[01-02]"}
    subprocess.run([*command, "down", str(directory)], check=True)
    assert not directory.exists()
    assert list(rig.processes_of(directory)) == []


def test_files_of_the_machine_are_unchanged(slurm_cluster: rig.SlurmCluster) -> None:
    """Node names resolve inside jobs only."""
    assert "gpu01" not in Path("/etc/hosts").read_text()
    assert slurm_cluster.run("srun", "getent", "hosts", "gpu02").split() == ["127.0.1.2", "gpu02"]


def test_database_has_temporary_tables_of_its_own(slurm_cluster: rig.SlurmCluster) -> None:
    """A server that starts removes those in its directory: of a cluster beside it, whose database crashed then."""
    socket = slurm_cluster.directory / "db" / "my.sock"
    command = ["mariadb", "--no-defaults", "--user=root", f"--socket={socket}", "--skip-column-names"]
    asked = [*command, "--execute=SELECT @@tmpdir"]
    shown = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert Path(shown.stdout.strip()).is_relative_to(slurm_cluster.directory)
