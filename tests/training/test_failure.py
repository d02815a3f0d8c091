"""A loader worker that is killed is a lost process, not an error of the program."""

import os
import signal

import pytest

from hpc_yolo.core.errors import LostProcessError
from hpc_yolo.launch.prepare import prepare_run
from hpc_yolo.resilience.stop_signal import STOP_SIGNALS
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.training import attempt
from hpc_yolo.training.failure import explained


def test_missing_file_is_no_lost_worker():
    error = FileNotFoundError("image.jpg")
    assert explained(error) is error


def test_late_signal_of_dead_worker_does_not_replace_its_error(shapes, tmp_path, monkeypatch):
    """The kernel closes the files of a killed process before it sends SIGCHLD, at which torch raises an error."""

    def raise_as_torch_does(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    def lose_connection(*_: object) -> None:
        signal.signal(signal.SIGCHLD, raise_as_torch_does)
        raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")

    spec = Spec(name="run", model="yolov5n", data=DataSpec(path=str(shapes)), cluster=ClusterSpec(gpus_per_node=0))
    prepare_run(run := RunDirectory(tmp_path / "run"), spec)
    monkeypatch.setattr(attempt, "train", lose_connection)
    monkeypatch.setattr(attempt, "report_failure", lambda *_: os.kill(os.getpid(), signal.SIGCHLD))
    handlers = {number: signal.getsignal(number) for number in (*STOP_SIGNALS, signal.SIGCHLD)}
    try:
        with pytest.raises(LostProcessError, match="process 7"):
            attempt.run_task(run, spec)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
