"""Fixtures: a small drawn dataset and specs on it, for tests that train."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from waiting import PATIENCE_S

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.journal import read_events

ROOT = Path(__file__).parents[2]
NETWORK = Path(__file__).parent / "network.yaml"
NETWORKS = {"anchors": NETWORK, "anchor-free": NETWORK.with_name("network_af.yaml")}
SLOW_MODEL = "yolov5n"  # a short run of it lasts until it is interrupted
Section = dict[str, Any]


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dataset.yaml of 40 training and 8 validation images."""
    from hpc_yolo.data.synth import write_shapes_dataset  # imports OpenCV, which most tests do not need

    return write_shapes_dataset(tmp_path_factory.mktemp("data") / "shapes", num_train=40, num_val=8)


@pytest.fixture
def write_spec(tmp_path: Path, shapes: Path) -> Callable[..., Path]:
    """Write a spec of two short epochs of a small network; keyword arguments replace single fields of its sections.

    Charts would take longer than the training, and are not drawn.
    """

    def write(
        name: str, cluster: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **top: object
    ) -> Path:
        """Write the spec; return its path."""
        spec = {
            "name": name,
            "model": str(NETWORK),
            "data": str(shapes),
            "output": str(tmp_path / "runs"),
            "cluster": {"gpus_per_node": 0, "cpus_per_task": 1, "time": "00:05:00"} | (cluster or {}),
            "train": {"epochs": 2, "batch": 8, "imgsz": 64, "workers": 0, "plots": False} | (train or {}),
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(spec | top))
        return path

    return write


@pytest.fixture
def hpc_yolo() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own."""

    def run(*command: object, cwd: Path = ROOT, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "hpc_yolo", *map(str, command)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            cwd=cwd,
            env=os.environ | {"COLUMNS": "120"},
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start commands in their own process groups, as a terminal does, and kill them after the test."""
    started = []

    def run(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "hpc_yolo", *map(str, arguments)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, start_new_session=True)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def events_of(tmp_path: Path) -> Callable[..., list[Any]]:
    """Read the events of a run by name, of one kind or all."""

    def read(name: str, kind: type = object) -> list[Any]:
        events = read_events(RunDirectory(tmp_path / "runs" / name).journal)
        return [event for event in events if isinstance(event, kind)]

    return read
