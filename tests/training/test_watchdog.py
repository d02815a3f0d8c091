"""An attempt without progress ends and reports the stalled rank; a slow attempt continues.

The attempts of `stalls.py` are real processes with real signals, which run at the same time, since they mostly wait.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from waiting import wait_until

from hpc_yolo.cluster.process import LOOPBACK, ProcessInfo
from hpc_yolo.core.errors import StallError
from hpc_yolo.distributed import World
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import RankLocation
from hpc_yolo.runs.failures import Failure, failures_of
from hpc_yolo.training.watchdog import Watchdog
from hpc_yolo.training.watchdog.diagnosis import Heartbeat, StalledRanks, describe_stalled, find_stalled
from hpc_yolo.training.watchdog.stall import MainThread, StallTimer

pytestmark = pytest.mark.measured
PROGRAM = Path(__file__).parents[1] / "helpers" / "stalls.py"
STALL = StallError.exit_code
LOCATIONS = [
    RankLocation(rank=rank, local_rank=0, node_rank=rank, host=f"n{rank}", pid=100 + rank) for rank in range(3)
]


class Attempts:
    """Files that the program has written for each attempt."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def run(self, case: str) -> RunDirectory:
        return RunDirectory(self._directory / case.replace(" ", "-"))

    def ends(self, case: str) -> dict[int, int]:
        """Wait for all ranks to end and return their exit codes."""
        path = self.run(case).path / "ends.json"
        wait_until(path.exists, f"all ranks of {case} to end")
        return {int(rank): code for rank, code in json.loads(path.read_text()).items()}

    def failure(self, case: str) -> Failure:
        """Return the one failure, from the first diagnosis."""
        (failure,) = failures_of(self.run(case), case, 1)
        return failure

    def stacks(self, case: str) -> dict[int, list[str]]:
        """Return the lines of the stacks file of each rank."""
        paths = self.run(case).stacks.glob("attempt7-rank*.txt")
        return {int(path.stem.rpartition("rank")[2]): path.read_text().splitlines() for path in paths}

    def errors(self, case: str, rank: int) -> str:
        """Return the error output of a rank."""
        return (self.run(case).path / f"stderr-{rank}").read_text()


@pytest.fixture(scope="module")
def attempts(tmp_path_factory) -> Iterator[Attempts]:
    """Start all attempts."""
    directory = tmp_path_factory.mktemp("stalls")
    command = [sys.executable, str(PROGRAM), str(directory)]
    with subprocess.Popen(command, start_new_session=True) as program:
        yield Attempts(directory)
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("case", "stalled_rank", "message"),
    [
        ("stopped", 1, "does not respond: a signal has stopped it"),
        ("store stopped", 0, "does not respond: it is stopped, gone, or cut off"),
        ("loader", 2, "holds up the others in 'waiting for data' at step 30"),
    ],
)
def test_stalled_rank_ends_attempt_and_is_reported_with_stacks(attempts, case, stalled_rank, message):
    assert attempts.ends(case) == {0: STALL, 1: STALL, 2: STALL}
    failure = attempts.failure(case)
    assert (failure.rank, failure.exit_code, failure.is_echo) == (stalled_rank, STALL, False)
    assert message in failure.message and "no progress for" in failure.message
    stacks = attempts.stacks(case)
    assert sorted(stacks) == [0, 1, 2], "also of the stopped rank, which is continued for it"
    for rank, lines in stacks.items():
        assert re.match(
            rf"rank {rank} on \S+ \(process \d+\): in '[a-z ]+' at step \d+, no progress for \d+ s$", lines[0]
        )
        assert any("stalls.py" in line and line.endswith("in train") for line in lines)


def test_rank_blocked_outside_python_prints_stacks_and_is_killed(attempts):
    assert attempts.ends("python held up") == {0: STALL, 1: -signal.SIGKILL}
    assert "does not respond: it is blocked outside of Python" in attempts.failure("python held up").message
    assert sorted(attempts.stacks("python held up")) == [0]
    assert "in hold_python_up" in attempts.errors("python held up", 1)


@pytest.mark.parametrize(("case", "victim"), [("killed", 1), ("store killed", 0)])
def test_killed_rank_is_detected_before_stall_timeout(attempts, case, victim):
    """The others do not detect the closed connection, as if they waited for a device; the stall timeout is 600 s."""
    others = {0, 1, 2} - {victim}
    assert attempts.ends(case) == {victim: -signal.SIGKILL} | dict.fromkeys(others, STALL)
    failure = attempts.failure(case)
    assert failure.rank == victim and failure.message.endswith("is gone")
    assert failure.is_echo, "it is counted as killed, not as a stall"
    assert set(attempts.stacks(case)) == others


def test_single_rank_detects_own_stall(attempts):
    assert attempts.ends("alone") == {0: STALL}
    assert "rank 0" in attempts.failure("alone").message
    assert "makes no progress in 'waiting for data' at step 30" in attempts.failure("alone").message


def test_stall_without_disk_is_reported_on_error_output(attempts):
    assert attempts.ends("disk gone") == {0: STALL}
    errors = attempts.errors("disk gone", 0)
    assert "makes no progress in 'waiting for data' at step 30" in errors
    assert "stalls.py" in errors and "in train" in errors


@pytest.mark.parametrize("case", ["patient", "suspended"])
def test_slow_or_suspended_attempt_is_not_stalled(attempts, case):
    """A first step and an allowed phase of twice the limit, while a rank waits; a job that Slurm has suspended."""
    assert attempts.ends(case) == {0: 0, 1: 0}
    assert attempts.errors(case, 0) + attempts.errors(case, 1) == ""


def heartbeat(
    ticks: int, step: int = 5, num_phases: int = 1, remaining_s: float = 0.0, has_left: bool = False
) -> Heartbeat:
    return Heartbeat(
        ticks=ticks, step=step, num_phases=num_phases, phase="step", remaining_s=remaining_s, has_left=has_left
    )


BEFORE, MOVED = [heartbeat(1), heartbeat(1), heartbeat(1)], [heartbeat(4), heartbeat(4), heartbeat(4)]


@pytest.mark.parametrize(
    ("later", "stalled"),
    [
        ([heartbeat(4), heartbeat(4), heartbeat(4)], StalledRanks([0, 1, 2], are_unresponsive=False)),
        ([heartbeat(4), heartbeat(1), heartbeat(4)], StalledRanks([1], are_unresponsive=True)),
        ([heartbeat(4), heartbeat(1, step=9), heartbeat(1)], StalledRanks([1, 2], are_unresponsive=True)),
        ([heartbeat(4), heartbeat(4)], StalledRanks([2], are_unresponsive=True)),
        ([heartbeat(4), heartbeat(4, num_phases=0), heartbeat(4)], StalledRanks([1], are_unresponsive=False)),
        ([heartbeat(4), heartbeat(4), heartbeat(4, step=4, num_phases=7)], StalledRanks([2], are_unresponsive=False)),
        ([heartbeat(4, step=4), heartbeat(4, step=4), heartbeat(1)], StalledRanks([2], are_unresponsive=True)),
        (
            [heartbeat(1, has_left=True), heartbeat(4), heartbeat(4, num_phases=3)],
            StalledRanks([1], are_unresponsive=False),
        ),
        ([heartbeat(4), heartbeat(4), heartbeat(4, remaining_s=1)], None),
        ([heartbeat(4), heartbeat(1), heartbeat(4, remaining_s=500)], None),
        ([heartbeat(4), heartbeat(1, remaining_s=500), heartbeat(4)], StalledRanks([1], are_unresponsive=True)),
    ],
    ids=[
        "all at the same point",
        "one unresponsive rank",
        "unresponsive before behind at any step",
        "one without a heartbeat",
        "one behind within the step",
        "one behind by a step",
        "unresponsive before behind",
        "others wait for rank that has left",
        "one within its limit",
        "one within its limit and one unresponsive",
        "unresponsive within its limit",
    ],
)
def test_stalled_ranks_are_found(later, stalled):
    assert find_stalled(dict(enumerate(BEFORE)), dict(enumerate(later)), world_size=3) == stalled


@pytest.mark.parametrize(
    ("stalled", "num_heartbeats", "message"),
    [
        (StalledRanks([1], True), 3, "rank 1 on n1 (process 101) does not respond: it is stopped"),
        (StalledRanks([1, 2], True), 3, "last seen in 'step' at step 5; nor rank 2"),
        (StalledRanks([2], True), 2, "it has not started training"),
        (StalledRanks([0], False), 3, "rank 0 on n0 (process 100) holds up the others in 'step' at step 5"),
        (StalledRanks([0, 1], False), 3, "holds up the others in 'step' at step 5; so does rank 1"),
        (StalledRanks([0, 1, 2], False), 3, "all 3 ranks are at the same point in 'step' at step 5; rank 0 on n0"),
        (StalledRanks([0], False), 1, "rank 0 on n0 (process 100) makes no progress in 'step' at step 5"),
    ],
)
def test_message_names_the_stalled_ranks(stalled, num_heartbeats, message):
    assert message in describe_stalled(stalled, dict(list(enumerate(MOVED))[:num_heartbeats]), LOCATIONS)


def limits(timeout_s: float | None, observations: list[tuple[int, float, float]]) -> list[float]:
    """Return the limit after each observation: (step, seconds allowed, seconds before the next heartbeat)."""
    timer, found = StallTimer(timeout_s, start_timeout_s=600), []
    for number, (step, allowed_s, stalled_s) in enumerate(observations):
        thread = MainThread(number + 1, step, 0, "step", allowed_s)
        timer.observe(thread, 1)
        found.append(timer.limit_s)
        timer.observe(thread, stalled_s)
    return found


@pytest.mark.parametrize(
    ("timeout_s", "observations", "expected"),
    [
        (None, [(0, 0, 400), (1, 0, 1), (2, 0, 1)], [600, 45, 45]),
        (None, [(0, 0, 1), (1, 0, 20), (2, 0, 3), (3, 0, 3)], [600, 45, 100, 100]),
        (None, [(0, 0, 1), (1, 300, 200), (1, 0, 1), (2, 0, 1)], [600, 300, 45, 45]),
        (30, [(0, 0, 1), (1, 0, 20), (2, 100, 1), (3, 5, 1)], [600, 30, 100, 30]),
        (700, [(-1, 0, 1), (8, 0, 1), (8, 0, 1), (9, 0, 1)], [700, 700, 700, 700]),
        (30, [(-1, 0, 1), (8, 0, 1), (8, 0, 1), (9, 0, 1)], [600, 600, 600, 30]),
        (30, [(8, 0, 1), (9, 0, 1), (4, 0, 1), (9, 0, 1)], [600, 30, 600, 30]),
    ],
    ids=[
        "first step has start timeout and is not measured",
        "five times the slowest step",
        "allowed phase is not measured",
        "longer allowed phase extends fixed limit",
        "first step has at least stall timeout",
        "step ends with start of next step",
        "rollback restarts limit",
    ],
)
def test_stall_limit_follows_observed_steps(timeout_s, observations, expected):
    assert limits(timeout_s, observations) == expected


def test_closed_watchdog_restores_threads_and_signals(tmp_path):
    """Threads, signals and timers are restored each time (the leak check of the tests ignores daemon threads)."""
    process = ProcessInfo(0, 0, 0, 1, 1, 1, LOOPBACK, None, "single")
    world = World(process, torch.device("cpu"), (LOCATIONS[0],))
    before = signal.getsignal(signal.SIGUSR1)
    for _ in range(20):
        with Watchdog(world, RunDirectory(tmp_path), 1, timeout_s=10) as watchdog:
            watchdog.heartbeat("step", 1)
            watchdog.heartbeat("metrics", 2, allowed_s=100)
        assert not watchdog._thread.is_alive()
    assert signal.getsignal(signal.SIGUSR1) == before
    assert list(tmp_path.iterdir()) == []
