"""What is asked of Slurm after an attempt, for every mode of requeueing and every refusal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hpc_yolo.cluster.process import LOOPBACK, ProcessInfo
from hpc_yolo.core.errors import ClusterError
from hpc_yolo.resilience import requeue
from hpc_yolo.spec.schema import ClusterSpec

PROCESS = ProcessInfo(0, 0, 0, 1, 1, 1, LOOPBACK, None, "slurm", host="gpu01", job_id="7", attempt=1)


@pytest.fixture
def refused() -> set[str]:
    """Names of the requests that Slurm refuses."""
    return set()


@pytest.fixture
def requests(monkeypatch, refused) -> list[str]:
    """Requests to Slurm, in order."""
    made: list[str] = []

    def record(name: str) -> Callable[..., str]:
        def request(*arguments: object, **options: object) -> str:
            texts = [str(value) for value in (*arguments[-1:], *options.values())]
            made.append(" ".join([name, *texts]))
            if name in refused:
                raise ClusterError(f"{name} is refused")
            return "8"

        return request

    for name in ("requeue", "exclude_nodes", "set_requeue"):
        monkeypatch.setattr(f"hpc_yolo.cluster.scheduler.{name}", record(name))
    monkeypatch.setattr(requeue, "ensure_successor", record("ensure_successor"))
    monkeypatch.setattr(requeue, "cancel_successor", record("cancel_successor"))
    return made


@pytest.mark.parametrize(
    ("mode", "exclude", "refusals", "expected", "message"),
    [
        ("requeue", [], set(), ["requeue 7"], "queued again"),
        ("requeue", ["n1"], set(), ["requeue 7", "exclude_nodes ['n1']"], "queued again"),
        ("requeue", ["n1"], {"exclude_nodes"}, ["requeue 7", "exclude_nodes ['n1']"], "queued again"),
        ("requeue", [], {"requeue"}, ["requeue 7"], None),
        ("auto", [], set(), ["requeue 7"], "queued again"),
        ("chain", [], set(), ["ensure_successor []", "set_requeue 7 False"], "job 8 follows"),
        ("chain", [], {"set_requeue"}, ["ensure_successor []", "set_requeue 7 False"], "job 8 follows"),
        ("chain", [], {"ensure_successor"}, ["ensure_successor []"], None),
    ],
)
def test_queue_again_follows_the_mode(run, requests, refused, mode, exclude, refusals, expected, message):
    refused |= refusals
    cluster = ClusterSpec(requeue=mode)
    if message is None:
        with pytest.raises(ClusterError):
            requeue.queue_again(run, PROCESS, cluster, exclude)
    else:
        assert requeue.queue_again(run, PROCESS, cluster, exclude) == message
    assert requests == expected


def test_refused_successor_is_a_requeue_where_the_spec_leaves_the_mode_open(run, requests, refused, monkeypatch):
    monkeypatch.setattr(requeue, "requeue_mode", lambda *_: "chain")
    refused.add("ensure_successor")
    assert requeue.queue_again(run, PROCESS, ClusterSpec(), []) == "queued again"
    assert requests == ["ensure_successor []", "set_requeue 7 True", "requeue 7"]


@pytest.mark.parametrize(
    ("mode", "start", "expected"),
    [
        ("requeue", 1, ["cancel_successor 7"]),
        ("requeue", 2, ["cancel_successor 7", "set_requeue 7 False"]),
        ("expedite", 1, ["cancel_successor 7", "set_requeue 7 False"]),
    ],
)
def test_nothing_follows_a_final_end(run, requests, mode, start, expected):
    process = ProcessInfo(0, 0, 0, 1, 1, 1, LOOPBACK, None, "slurm", host="gpu01", job_id="7", attempt=start)
    requeue.end_for_good(run, process, ClusterSpec(requeue=mode))
    assert requests == expected
