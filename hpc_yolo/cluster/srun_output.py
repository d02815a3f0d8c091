"""Parsers of what srun and slurmstepd write to the log of a job when tasks end: which ended first, and out of memory.

The exit status of srun is not sufficient: it is the highest of all tasks, including those that srun ends because
another one failed. The lines are the same from Slurm 22.05 to 26.05.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from hpc_yolo.core.exit_status import ExitStatus

_TASK_END = re.compile(r"^srun: error: (?P<host>\S+): tasks? (?P<tasks>[\d,-]+): (?P<how>.+)$", re.MULTILINE)
_EXIT_CODE = re.compile(r"Exited with exit code (\d+)")
_OUT_OF_MEMORY = re.compile(
    r"oom.kill event|OOM Killed|cgroup out-of-memory handler|exceeded (?:job |step )?memory limit"
    r"|^srun: error: \S+: tasks? [\d,-]+: Out Of Memory",
    re.IGNORECASE | re.MULTILINE,
)
# srun puts the rank before each line of a task.
_MESSAGE = re.compile(
    r"^(?: *(?P<rank>\d+): (?!slurmstepd)|slurmstepd\S*: error: (?=execve|pyxis: ))(?P<text>[ \t]*\S.*)$", re.MULTILINE
)
_SIGNAL_NAMES = {
    text.lower(): number for number in signal.valid_signals() if (text := signal.strsignal(number)) is not None
}


@dataclass(frozen=True)
class TaskEnd:
    """Failure of some tasks of one node.

    Attributes:
        ranks: the tasks.
        how: text of srun, such as "Segmentation fault".
        status: exit status of the tasks; None where `how` is unknown.
    """

    host: str
    ranks: tuple[int, ...]
    how: str
    status: ExitStatus | None

    @property
    def text(self) -> str:
        """Text for messages."""
        tasks = f"task {self.ranks[0]}" if len(self.ranks) == 1 else f"{len(self.ranks)} tasks"
        return f"{tasks} on {self.host}: {self.how}"


def parse_task_ends(log: str) -> list[TaskEnd]:
    """Return the ends of tasks that srun reports in `log`, in its order."""
    ends = []
    for match in _TASK_END.finditer(log):
        how = match["how"].strip()
        ends.append(TaskEnd(match["host"], _ranks(match["tasks"]), how, _status(how)))
    return ends


def first_end(ends: Sequence[TaskEnd], echoes: Collection[int]) -> TaskEnd | None:
    """Return the end that caused the others; None where there is none.

    Args:
        ends: in the order of srun's reports.
        echoes: ranks that ended because of another one; srun may report them before the one that was killed.
    """
    causes = [end for end in ends if not set(end.ranks) <= set(echoes)]
    return next(iter(causes or ends), None)


def last_message(log: str, rank: int | None) -> str:
    """Return the last line of a task in `log`, or why it could not be started; "" where there is none.

    srun also cuts a line where a program has written it in pieces; one that begins with a colon or a quote is joined.

    Args:
        log: of the job.
        rank: of the task; None is any.
    """
    found = [match["text"] for match in _MESSAGE.finditer(log) if match["rank"] in (None, f"{rank}") or rank is None]
    message = found.pop() if found else ""
    while found and message.startswith((":", "'", '"', "‘")):
        message = found.pop() + message
    return message.strip()


def is_out_of_memory(log: str) -> bool:
    """Return whether Slurm reports in `log` that a process was killed because the job ran out of memory."""
    return _OUT_OF_MEMORY.search(log) is not None


def _ranks(text: str) -> tuple[int, ...]:
    """Return the ranks of a list such as `0,2-3`."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _status(how: str) -> ExitStatus | None:
    if code := _EXIT_CODE.match(how):
        return ExitStatus(int(code[1]))
    if how.startswith("Out Of Memory"):
        return ExitStatus.of_signal(signal.SIGKILL)
    number = _SIGNAL_NAMES.get(how.partition(" (")[0].lower())  # "Segmentation fault (core dumped)"
    return None if number is None else ExitStatus.of_signal(number)
