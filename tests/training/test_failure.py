"""A process that ends because another one was killed says so, and has no error of its own."""

import os
import signal

import pytest
from torch.distributed import DistBackendError, DistNetworkError, DistStoreError

from hpc_yolo.core.errors import DataError, LostProcessError
from hpc_yolo.launch.prepare import prepare_run
from hpc_yolo.resilience.stop_signal import STOP_SIGNALS
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.training import attempt
from hpc_yolo.training.failure import explained, is_echo


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"),
            "a loader worker (process 7, 8) has died: killed from outside, perhaps because memory ran out",
        ),
        (
            RuntimeError(
                "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [::1]:4"
            ),
            "lost the connection to another rank: "
            "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [::1]:4",
        ),
        (
            DistNetworkError("failed to recv, got 0 bytes\nException raised from recvBytes"),
            "lost the connection to another rank: failed to recv, got 0 bytes",
        ),
        (
            DistBackendError(
                "NCCL error in: NCCLUtils.cpp:93\nLast error:\nsocketProgress: Connection closed by gpu2<4>"
            ),
            "lost the connection to another rank: socketProgress: Connection closed by gpu2<4>",
        ),
        (
            DistStoreError("Connection was likely closed. Did the server crash?"),
            "lost the connection to another rank: Connection was likely closed. Did the server crash?",
        ),
        (
            DistNetworkError(
                "The client socket has timed out after 20000ms while trying to connect to (127.0.0.1, 25655)."
            ),
            "lost the connection to another rank: "
            "The client socket has timed out after 20000ms while trying to connect to (127.0.0.1, 25655).",
        ),
    ],
)
def test_error_that_only_shows_the_end_of_another_process_is_a_lost_process(error, message):
    lost = explained(error)
    assert isinstance(lost, LostProcessError) and is_echo(lost)
    assert lost.message == message


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError("image.jpg"), RuntimeError("shapes differ"), DataError("connection reset"), ValueError("bad")],
    ids=repr,
)
def test_other_errors_stay(error):
    assert explained(error) is error and not is_echo(error)


def test_other_error_of_a_collective_keeps_all_its_lines():
    """Every rank may have it, and then none has another cause."""
    error = DistBackendError("NCCL error in: NCCLUtils.cpp:93\nLast error:\nDuplicate GPU detected: rank 1 and rank 0")
    assert explained(error) is error and is_echo(error)


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
