"""The directories that `data.stage` names on a node."""

from pathlib import Path

import pytest

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.staging import where
from hpc_yolo.data.staging.where import stage_directories


@pytest.fixture(autouse=True)
def directories(tmp_path, monkeypatch):
    for name in ("slurm", "local", "lustre", "shm"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(where, "MEMORY", tmp_path / "shm")
    monkeypatch.setattr(where, "is_local", lambda path: "lustre" not in path.name)


@pytest.mark.parametrize(
    ("stage", "environ", "names"),
    [
        ("auto", {"SLURM_TMPDIR": "slurm", "LOCAL_SCRATCH": "local"}, ["slurm", "local", "shm"]),
        ("auto", {"TMPDIR": "local"}, ["local", "shm"]),
        ("auto", {"SLURM_TMPDIR": "slurm", "TMPDIR": "slurm"}, ["slurm", "shm"]),
        ("auto", {"SLURM_TMPDIR": "gone", "TMPDIR": "lustre"}, ["shm"]),
        ("auto", {}, ["shm"]),
        ("$SLURM_TMPDIR/sets", {"SLURM_TMPDIR": "slurm", "TMPDIR": "local"}, ["slurm/sets"]),
        ("${TMPDIR}", {"TMPDIR": "lustre"}, ["lustre"]),
    ],
)
def test_directories_of(stage, environ, names, tmp_path):
    environ = {name: str(tmp_path / value) for name, value in environ.items()}
    assert stage_directories(stage, environ) == [tmp_path / name for name in names]


def test_relative_value_of_variable_is_no_directory(tmp_path):
    assert stage_directories("auto", {"TMPDIR": "local"}) == [tmp_path / "shm"]


def test_unset_variable_is_refused():
    with pytest.raises(DataError, match=r"the variable NOPE of \$NOPE/x is not set on"):
        stage_directories("$NOPE/x", {})


def test_no_local_directory_is_refused(monkeypatch):
    monkeypatch.setattr(where, "is_local", lambda _path: False)
    with pytest.raises(DataError, match=r"none of \$SLURM_TMPDIR, \$LOCAL_SCRATCH, \$TMPDIR and .* is a local"):
        stage_directories("auto", {})


def test_directory_without_variables_is_itself():
    assert stage_directories("/scratch/me", {}) == [Path("/scratch/me")]
