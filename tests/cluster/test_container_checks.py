"""A container, checked where a job is submitted and on its first node."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from hpc_yolo.cluster.container_checks import (
    is_installed,
    require_container,
    require_container_on_node,
    require_no_container,
)
from hpc_yolo.cluster.mount_points import make_mount_points, path_in_image
from hpc_yolo.core.errors import ClusterError, InstallationError, SpecError
from hpc_yolo.spec.container import ContainerSpec, Mount
from hpc_yolo.spec.schema import ClusterSpec

HERE = platform.node()


@pytest.fixture
def environ(tmp_path, monkeypatch) -> dict[str, str]:
    """The variables of a job on a machine with apptainer and ch-run, whose home has an image and a directory."""
    (tmp_path / "bin").mkdir()
    for name in ("apptainer", "ch-run"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "a.sif").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "tree" / "usr").mkdir(parents=True)
    environ = {"PATH": f"{tmp_path}/bin", "HOME": str(tmp_path), "DIR": str(tmp_path)}
    monkeypatch.setenv("PATH", environ["PATH"])
    return environ


def cluster_of(**fields) -> ClusterSpec:
    cluster = {name: fields.pop(name) for name in ("setup", "modules") if name in fields}
    return ClusterSpec(container=ContainerSpec(**{"image": "~/a.sif", "runtime": "apptainer"} | fields), **cluster)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": "~/b.sif"}, "cluster.container.image: {home}/b.sif does not exist"),
        ({"image": "~/none/b.sif"}, "cluster.container.image: {home}/none/b.sif does not exist"),
        ({"image": "~/empty"}, "cluster.container.image: {home}/empty is a directory but not an image"),
        ({"mounts": ["~/tree", "~/nothing:/data"]}, r"cluster.container.mounts\[1\]: {home}/nothing does not exist"),
    ],
)
def test_what_is_not_there_is_refused_at_submission(environ, fields, message):
    with pytest.raises(SpecError, match=message.format(home=environ["HOME"])):
        require_container(cluster_of(**fields), environ)


@pytest.mark.parametrize(
    ("fields", "warnings"),
    [
        ({}, []),
        ({"image": "$DIR/nothing.sif"}, []),
        ({"image": "~/tree", "runtime": "charliecloud"}, []),
        ({"image": "a/b:1", "runtime": "podman-hpc"}, ["podman-hpc is not installed here"]),
        ({"runtime": "singularity"}, ["singularity is not installed here; the job ends at its start if that is so"]),
        ({"runtime": "singularity", "setup": ["module load singularity"]}, []),
        ({"runtime": "singularity", "modules": ["singularity"]}, []),
        ({"runtime": "pyxis", "image": "a"}, ["the plugin pyxis of srun is not installed here"]),
        ({"image": "/nowhere-here/a.sif"}, ["cluster.container.image: /nowhere-here/a.sif does not exist here"]),
        ({"mounts": ["/nowhere-here"]}, [r"cluster.container.mounts[0]: /nowhere-here does not exist here"]),
        ({"image": "docker://a/b"}, ["make a file once: apptainer build train.sif docker://a/b"]),
    ],
)
def test_what_may_be_on_the_nodes_is_a_warning(environ, fields, warnings):
    found = require_container(cluster_of(**fields), environ)
    assert len(found) == len(warnings)
    assert all(text in warning for text, warning in zip(warnings, found, strict=True))


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({}, None, ""),
        ({"image": "$DIR/a.sif", "mounts": ["$DIR/tree:/x"], "env": {"A": "$DIR"}, "workdir": "$DIR"}, None, ""),
        ({"image": "docker://a/b"}, None, ""),
        ({"image": "$NOPE/a.sif"}, SpecError, "cluster.container.image: the variable NOPE is not set"),
        ({"mounts": ["~/tree", "$NOPE"]}, SpecError, r"cluster.container.mounts\[1\]: the variable NOPE is not set"),
        ({"mounts": ["~/tree:$NOPE/x"]}, SpecError, r"cluster.container.mounts\[0\]: the variable NOPE is not set"),
        ({"env": {"A": "$NOPE"}}, SpecError, "cluster.container.env.A: the variable NOPE is not set"),
        ({"workdir": "$NOPE"}, SpecError, "cluster.container.workdir: the variable NOPE is not set"),
        ({"image": "$DIR/b.sif"}, SpecError, f"b.sif does not exist on {HERE}"),
        ({"mounts": ["/nowhere-here"]}, SpecError, f"/nowhere-here does not exist on {HERE}"),
        ({"runtime": "singularity"}, InstallationError, f"singularity is not installed on {HERE}"),
        ({"runtime": "pyxis", "image": "a"}, InstallationError, f"pyxis of srun is not installed on {HERE}"),
    ],
)
def test_job_is_checked_on_its_first_node(environ, fields, error, message):
    if error is None:
        require_container_on_node(cluster_of(**fields), [], environ)
        return
    with pytest.raises(error, match=message):
        require_container_on_node(cluster_of(**fields), [], environ)


def test_variable_in_a_path_of_the_dataset_is_checked_on_the_node(environ):
    require_container_on_node(cluster_of(), [Mount("$DIR/x", "$DIR/x")], environ)
    with pytest.raises(SpecError, match="data: the variable NOPE is not set"):
        require_container_on_node(cluster_of(), [Mount("$NOPE/x", "$NOPE/x")], environ)


@pytest.mark.parametrize("cluster", [ClusterSpec(), cluster_of(runtime="none", image="/nowhere")])
def test_no_container_needs_nothing(cluster):
    assert require_container(cluster, {}) == []
    require_container_on_node(cluster, [], {})
    require_no_container(cluster)


def test_tasks_on_this_machine_run_in_no_container():
    with pytest.raises(ClusterError, match="not supported for tasks on this machine") as raised:
        require_no_container(cluster_of())
    assert "--set cluster.container=null" in raised.value.hint


def test_pyxis_is_found_in_the_options_of_srun(environ, tmp_path):
    assert not is_installed("pyxis", environ["PATH"])
    srun = tmp_path / "bin" / "srun"
    srun.write_text("#!/bin/sh\necho '  --container-image=[USER@][REGISTRY#]IMAGE[:TAG]|PATH'\n")
    srun.chmod(0o755)
    assert is_installed("pyxis", environ["PATH"])
    srun.write_text("#!/bin/sh\necho '  --container=path'\n")
    assert not is_installed("pyxis", environ["PATH"])


@pytest.fixture
def image(tmp_path) -> Path:
    image = tmp_path / "image"
    (image / "usr" / "lib").mkdir(parents=True)
    (image / "lib").symlink_to("usr/lib")
    (image / "home").symlink_to("/usr/home")
    (image / "up").symlink_to("../../..")
    (image / "loop").symlink_to("loop")
    return image


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data/x", "data/x"),
        ("/lib/x", "usr/lib/x"),
        ("/home/me", "usr/home/me"),
        ("/up/x", "x"),
        ("/usr/../data", "data"),
    ],
)
def test_links_of_an_image_lead_inside_of_it(image, path, expected):
    assert path_in_image(image, path) == image / expected


def test_endless_link_ends(image):
    assert path_in_image(image, "/loop/x") == image / "loop" / "x"


def make_in(image: Path, *mounts: Mount, runtime: str = "charliecloud") -> None:
    make_mount_points(ContainerSpec(image=str(image), runtime=runtime), mounts, os.environ)


def test_mount_points_are_made_in_a_directory_of_charliecloud(image, tmp_path):
    (tmp_path / "file").touch()
    mounts = [Mount(str(tmp_path), "/home/me/x"), Mount(f"{tmp_path}/file", "/etc/settings")]
    for _ in range(2):
        make_in(image, *mounts)
    assert (image / "usr" / "home" / "me" / "x").is_dir()
    assert (image / "etc" / "settings").is_file()
    make_in(image, Mount(str(tmp_path), "/other"), runtime="apptainer")
    assert not (image / "other").exists()
    make_in(tmp_path / "train.sqsh", Mount(str(tmp_path), "/other"))


def test_mount_point_that_cannot_be_made_is_named(image, tmp_path):
    (image / "data").touch()
    with pytest.raises(SpecError, match=f"{image}/data/x, to mount {tmp_path} on, cannot be made: Not a directory"):
        make_in(image, Mount(str(tmp_path), "/data/x"))
