"""Ends of tasks, parsed from logs of jobs of three Slurm versions."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from hpc_yolo.cluster.srun_output import TaskEnd, first_end, is_out_of_memory, last_message, parse_task_ends
from hpc_yolo.core.exit_status import ExitStatus

RECORDED = Path(__file__).parent / "recorded"
VERSIONS = sorted(path.parent.name for path in RECORDED.glob("*/task_ends.txt"))


def section(version: str, how: str) -> str:
    """What was printed when rank 1 of four died by `how`."""
    text = (RECORDED / version / "task_ends.txt").read_text()
    return text.split(f"== {how}\n")[1].split("\n==")[0]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("KILL", TaskEnd("gpu01", (1,), "Killed", ExitStatus.of_signal(signal.SIGKILL))),
        ("SEGV", TaskEnd("gpu01", (1,), "Segmentation fault", ExitStatus.of_signal(signal.SIGSEGV))),
        ("ABRT", TaskEnd("gpu01", (1,), "Aborted", ExitStatus.of_signal(signal.SIGABRT))),
        ("TERM", TaskEnd("gpu01", (1,), "Terminated", ExitStatus.of_signal(signal.SIGTERM))),
        ("exit", TaskEnd("gpu01", (1,), "Exited with exit code 3", ExitStatus(3))),
    ],
)
def test_first_end_is_the_task_that_ended_the_others(version, how, expected):
    """The exit status of srun was 143 in all of these: that of the tasks that it ended."""
    log = section(version, how)
    assert "srun ended with 143" in log
    ends = parse_task_ends(log)
    assert ends[0] == expected
    assert sum(len(end.ranks) for end in ends) == 4
    assert first_end(ends, echoes=()) == expected


def test_rank_that_only_noticed_is_not_the_first():
    """srun may hear of a peer that lost its connection before it hears of the task that was killed."""
    log = "srun: error: n1: tasks 0,2-3: Exited with exit code 1\nsrun: error: n2: task 1: Bus error (core dumped)\n"
    ends = parse_task_ends(log)
    expected = [((0, 2, 3), ExitStatus(1)), ((1,), ExitStatus.of_signal(signal.SIGBUS))]
    assert [(end.ranks, end.status) for end in ends] == expected
    assert first_end(ends, echoes={0, 2, 3}) == ends[1]
    assert first_end(ends, echoes={0, 1, 2, 3}) == ends[0]
    assert first_end([], echoes={0}) is None


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("srun: error: gpu01: task 1: Out Of Memory", ExitStatus(137)),
        ("srun: error: gpu01: task 1: Exited with exit code 143", ExitStatus(143)),
        ("srun: error: gpu01: task 1: Vanished without trace", None),
    ],
)
def test_unknown_end_has_no_status(line, status):
    (end,) = parse_task_ends(f"0: srun: error: not ours\n{line}\n")
    assert end.status == status
    assert end.text == f"task 1 on gpu01: {line.rpartition(': ')[2]}"


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ((RECORDED / "22.05.8" / "out_of_memory.txt").read_text(), True),
        (
            "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed.",
            True,
        ),
        ("slurmstepd: error: StepId=1.0 exceeded memory limit (204800 > 102400), being killed", True),
        ("srun: error: gpu01: task 1: Out Of Memory", True),
        ("torch.OutOfMemoryError: CUDA out of memory", False),
        ("0: a line of ours: Out Of Memory", False),
        ("", False),
    ],
)
def test_out_of_memory_is_recognised(log, expected):
    assert is_out_of_memory(log) is expected


@pytest.mark.parametrize(
    ("log", "rank", "expected"),
    [
        (
            "1: FATAL:   could not open image /a.sif\nsrun: error: gpu01: task 1: Exited\n",
            1,
            "FATAL:   could not open image /a.sif",
        ),
        (" 3: one\n 3: two\n 3: \n10: three\n", 3, "two"),
        (" 3: one\n10: three\n", 10, "three"),
        (" 3: one\n10: three\n", None, "three"),
        ("0: slurmstepd-gpu01: error: *** STEP 2.0 ON gpu01 CANCELLED ***\n", 0, ""),
        ("slurmstepd-gpu01: error: execve(): x: No such file\n", 0, "execve(): x: No such file"),
        ("slurmstepd: error: pyxis: failed to import docker image\n", 0, "pyxis: failed to import docker image"),
        ("0: env: \n0: '/opt/x'\n0: : No such file\n0: \n", 0, "env: '/opt/x': No such file"),
        ("0: : No such file\n", 0, ": No such file"),
        ("hpc-yolo: something\n", 0, ""),
        ("", None, ""),
    ],
)
def test_last_message_is_that_of_the_task(log, rank, expected):
    assert last_message(log, rank) == expected
