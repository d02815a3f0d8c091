"""Names of this host and cluster, and the directories with site profiles."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_yolo.cluster import this_site
from hpc_yolo.cluster.slurm_command import Finished
from hpc_yolo.cluster.this_site import cluster_name, profile_directories, site_lookup
from hpc_yolo.core.errors import SchedulerUnavailable


class Slurm:
    """scontrol, with the number of its calls."""

    def __init__(self, text: str | None) -> None:
        self.text, self.calls = text, 0

    def __call__(self, arguments, timeout_s):
        assert timeout_s <= 2
        self.calls += 1
        if self.text is None:
            raise SchedulerUnavailable("no answer")
        return Finished(0, self.text, "")


@pytest.fixture(autouse=True)
def usual_configuration(monkeypatch, tmp_path_factory):
    """Make the usual configuration that of another cluster."""
    path = tmp_path_factory.mktemp("etc") / "slurm.conf"
    path.write_text("ClusterName=usual\n")
    monkeypatch.setattr(this_site, "CONFIGURATIONS", ("/missing", str(path)))


@pytest.mark.parametrize(
    ("environ", "configuration", "answer", "name", "calls"),
    [
        ({"SLURM_CLUSTER_NAME": "job"}, "ClusterName=file\n", "ClusterName = asked", "job", 0),
        ({}, "# ClusterName=old\n clustername = file # x\n", "ClusterName = asked", "file", 0),
        ({}, "include other.conf\n", "AuthType = munge\nClusterName             = asked\n", "asked", 1),
        ({}, None, "ClusterName = asked", "asked", 1),
        ({}, None, None, None, 1),
        ({}, None, "strange", None, 1),
    ],
)
def test_cluster_name_is_read_before_slurm_is_asked(tmp_path, environ, configuration, answer, name, calls):
    path = tmp_path / "slurm.conf"
    if configuration is not None:
        path.write_text(configuration)
    slurm = Slurm(answer)
    assert cluster_name(environ | {"SLURM_CONF": str(path)}, slurm) == name
    assert slurm.calls == calls
    assert cluster_name({}, slurm) == "usual"
    assert cluster_name({"SLURM_CONF": "/missing"}, None) is None, "where Slurm is not installed nothing is asked"
    assert slurm.calls == calls


def test_slurm_is_asked_for_its_name_once(monkeypatch):
    monkeypatch.setattr("hpc_yolo.cluster.scheduler.is_installed", lambda: True)
    slurm = Slurm("ClusterName = big")
    lookup = site_lookup({"HPC_YOLO_SITE": "x", "SLURM_CONF": "/missing"}, run=slurm)
    assert (lookup.wanted, lookup.has_slurm, slurm.calls) == ("x", True, 0)
    assert [lookup.cluster_name(), lookup.cluster_name()] == ["big", "big"]
    assert slurm.calls == 1


def test_own_directory_of_profiles_is_the_last_one():
    environ = {"HPC_YOLO_SITES": "/group/sites::/more", "HOME": "/home/me"}
    shipped, *others = profile_directories(environ)
    assert shipped.name == "sites"
    assert others == [Path("/group/sites"), Path("/more"), Path("/home/me/.config/hpc-yolo/sites")]
    assert profile_directories(environ | {"XDG_CONFIG_HOME": "/c"})[-1] == Path("/c/hpc-yolo/sites")
