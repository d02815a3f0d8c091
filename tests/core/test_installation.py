"""Packages that cannot be imported: one message with the remedy, from the real messages of the loaders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from waiting import PATIENCE_S

from hpc_yolo.core.errors import InstallationError
from hpc_yolo.core.installation import explain, explain_import, require_import
from hpc_yolo.launch.prepare import prepare_run
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.failures import all_failures
from hpc_yolo.spec.load import load_spec

NO_GL = "libGL.so.1: cannot open shared object file: No such file or directory"
NO_GLIB = "libgthread-2.0.so.0: cannot open shared object file: No such file or directory"
NO_XCB = "libxcb.so.1: cannot open shared object file: No such file or directory"
NO_CUDART = "libcudart.so.12: cannot open shared object file: No such file or directory"
NO_QT = "libQt5Test.so.5: cannot open shared object file: No such file or directory"
OLD_GLIBC = "/lib64/libc.so.6: version `GLIBC_2.28' not found (required by /x/torch/lib/libtorch_cpu.so)"
OLD_STDCXX = "/lib64/libstdc++.so.6: version `GLIBCXX_3.4.29' not found (required by /x/cv2/cv2.abi3.so)"
NO_NMS = "operator torchvision::nms does not exist"

EXPLAINED = {
    # package, error of its import: clauses of message and hint
    "libGL": ("cv2", NO_GL, ["libGL.so.1 is missing", "libgl1", "mesa-libGL", "opencv-python-headless"]),
    "glib": ("cv2", NO_GLIB, ["libgthread-2.0.so.0", "libglib2.0-0", "dnf install glib2"]),
    "xcb": ("cv2", NO_XCB, ["libxcb.so.1", "libxcb1", "dnf install libxcb"]),
    "unlisted library": ("cv2", NO_QT, ["libQt5Test.so.5", "apt-file search", "dnf provides"]),
    "CUDA": ("torch", NO_CUDART, ["torch cannot be imported", "libcudart.so.12", "--force-reinstall torch", "CUDA"]),
    "C library": ("torch", OLD_GLIBC, ["libc.so.6 of this machine is too old, GLIBC_2.28 is needed", "container"]),
    "C++ library": ("cv2", OLD_STDCXX, ["libstdc++.so.6", "GLIBCXX_3.4.29 is needed"]),
    "NumPy ABI": ("cv2", "numpy.core.multiarray failed to import", ["another NumPy", "pip install --upgrade numpy"]),
    "NumPy 2": ("torch", "A module that was compiled using NumPy 1.x cannot be run in", ["another NumPy"]),
    "struct size": ("cv2", "numpy.ndarray size changed, may indicate binary incompatibility", ["another NumPy"]),
    "torchvision operators": ("torchvision", NO_NMS, ["built for another torch", "torch torchvision"]),
    "other error": (
        "torch",
        "undefined symbol: _ZN3c10\nat frame 0",
        ["symbol: _ZN3c10", "reinstall torch"],
    ),
    "no text": ("numpy", "", ["no reason is given"]),
}


@pytest.mark.parametrize(("package", "text", "clauses"), EXPLAINED.values(), ids=EXPLAINED.keys())
def test_failed_import_error_has_cause_and_remedy(package: str, text: str, clauses: list[str]) -> None:
    error = explain(package, text)
    assert error.exit_code == 13
    for clause in clauses:
        assert clause in str(error)
    assert len(error.message.splitlines()) == 1


def broken_environ(directory: Path, package: str, statement: str) -> dict[str, str]:
    """Return an environment in which the import of a package runs `statement`."""
    (directory / package).mkdir(parents=True)
    (directory / package / "__init__.py").write_text(statement)
    root = Path(__file__).parents[2]
    return os.environ | {"PYTHONPATH": f"{directory}{os.pathsep}{root}"}


BROKEN = {
    "OpenCV": ("cv2", f"raise ImportError({NO_GL!r})", "libgl1"),
    "torch": ("torch", f"def load():\n    raise OSError({NO_CUDART!r})\nload()", "libcudart.so.12"),
    "torchvision": ("torchvision", f"raise RuntimeError({NO_NMS!r})", "another torch"),
    "NumPy": ("numpy", "raise ImportError('numpy.core.multiarray failed to import')", "another NumPy"),
}


@pytest.mark.parametrize(("package", "statement", "clause"), BROKEN.values(), ids=BROKEN.keys())
def test_import_error_is_distinguished_from_other_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, statement: str, clause: str
) -> None:
    directory = tmp_path / "torch" / "cv2"  # directories of a user may have names of packages
    program = (
        "from hpc_yolo.core.installation import explain_import\n"
        f"try:\n    import {package}\nexcept Exception as error:\n    print(explain_import(error))\n"
        "try:\n    open('/no/such/file')\nexcept OSError as error:\n    print(explain_import(error))\n"
    )
    (directory / "work.py").parent.mkdir(parents=True)
    (directory / "work.py").write_text(program)
    done = subprocess.run(
        [sys.executable, directory / "work.py"],
        env=broken_environ(tmp_path / "broken", package, statement),
        capture_output=True,
        text=True,
        check=True,
    )
    *explained, other = done.stdout.splitlines()
    assert clause in "\n".join(explained)
    assert other == "None"


@pytest.mark.parametrize(("name", "explained"), [("yaml", True), ("cv2", True), ("hpc_yolo.nothing", False)])
def test_missing_package_error_has_install_command(name: str, explained: bool) -> None:
    error = explain_import(ModuleNotFoundError(f"No module named {name!r}", name=name))
    assert (error is not None) == explained
    if error is not None:
        assert sys.executable in error.message and "pip install" in str(error.hint)


def test_complete_installation_is_accepted() -> None:
    require_import(("numpy", "cv2"))
    require_import(python="/no/such/python")  # may exist on compute nodes only


def test_missing_library_is_found_by_other_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", broken_environ(tmp_path, "cv2", f"raise ImportError({NO_XCB!r})")["PYTHONPATH"])
    with pytest.raises(InstallationError, match=r"the library libxcb\.so\.1 is missing"):
        require_import()


@pytest.fixture
def spec_path(tmp_path: Path) -> Path:
    (tmp_path / "data.yaml").write_text("train: .\nval: .\nnames: [cat]\n")
    path = tmp_path / "spec.yaml"
    spec = {"name": "run", "model": "yolov5n", "data": "data.yaml", "output": str(tmp_path / "runs")}
    path.write_text(yaml.safe_dump(spec | {"cluster": {"gpus_per_node": 0, "executor": "local"}}))
    return path


def run_command(environ: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hpc_yolo", *map(str, arguments)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_missing_library_is_reported_once_per_node(tmp_path: Path, spec_path: Path) -> None:
    """Not with a traceback of each rank."""
    run = RunDirectory(tmp_path / "runs" / "run")
    prepare_run(run, load_spec(spec_path))
    environ = broken_environ(tmp_path / "broken", "cv2", f"raise ImportError({NO_GL!r})")
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
    step |= {"SLURM_NODEID": "0", "SLURM_STEP_NODELIST": "gpu01", "SLURMD_NODENAME": "gpu01"}
    outputs = []
    for rank in ("0", "1"):
        done = run_command(environ | step | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}, "train", run.path)
        assert done.returncode == InstallationError.exit_code
        assert "Traceback" not in done.stderr
        outputs.append(done.stderr)
    assert outputs[0].startswith("rank 0 on gpu01 failed: opencv-python (cv2) cannot be imported on ")
    assert "libgl1" in outputs[0] and "mesa-libGL" in outputs[0] and "opencv-python-headless" in outputs[0]
    assert outputs[1] == ""
    (failure,) = all_failures(run)
    assert (failure.rank, failure.host, failure.job_id, failure.exit_code) == (0, "gpu01", "7", 13)


def test_commands_report_missing_library_and_start_no_tasks(tmp_path: Path, spec_path: Path) -> None:
    environ = broken_environ(tmp_path / "broken", "cv2", f"raise ImportError({NO_GL!r})")
    for arguments in (["submit", spec_path], ["predict", "--weights", "x.pt", "--source", "x.jpg"]):
        done = run_command(environ, *arguments)
        assert done.returncode == InstallationError.exit_code, done.stderr
        assert done.stderr.splitlines()[0].endswith("the library libGL.so.1 is missing")
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_doctor_warns_about_missing_library(tmp_path: Path, spec_path: Path) -> None:
    environ = broken_environ(tmp_path / "broken", "cv2", f"raise ImportError({NO_GLIB!r})")
    done = run_command(environ, "doctor", spec_path, "--json")
    assert done.returncode == 4, done.stderr
    (found,) = [finding for finding in json.loads(done.stdout)["findings"] if finding["level"] == "warning"]
    assert "libgthread-2.0.so.0 is missing" in found["seen"]
    assert "libglib2.0-0" in found["advice"]
    healthy = run_command(dict(os.environ), "doctor", spec_path, "--json")
    assert healthy.returncode == 0, healthy.stdout
