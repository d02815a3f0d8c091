"""Output of the tasks of a run: all ranks and all attempts in one stream of lines, read as the files grow.

Slurm's jobs have one file each, in which srun puts every task's rank before its lines; a job that is queued again goes
on in it. Local runs have a file a rank: the order of lines between files is known only for those read as they come.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import all_submissions

_FILE = re.compile(r"(?P<job>\d+)(_(?P<rank>\d+)_log\.out|\.log)")
_LABEL = re.compile(r" *(?P<rank>\d+): ?(?P<text>.*)", re.DOTALL)
# The first line of every task: ours under Slurm and torchrun, submitit's on this machine.
_START = re.compile(r"hpc-yolo: task \d+ on |.*Starting with JobEnvironment\(")
_ANNOUNCED = re.compile(r"attempt (\d+): \d+ ranks? on ")


@dataclass(frozen=True)
class OutputLine:
    """One line. `rank`: None for output of the job itself. `attempt`: in which it was printed, as far as is known."""

    job_id: str
    rank: int | None
    attempt: int
    text: str


@dataclass
class _Job:
    """The attempt that each rank of a job is in.

    Attributes:
        numbers: the attempts of the job's starts.
        starts: how often each rank has started.
    """

    first: int
    numbers: list[int] = field(default_factory=list)
    starts: dict[int, int] = field(default_factory=dict)

    def attempt_of(self, rank: int | None, text: str) -> int:
        """Return the attempt in which `rank` prints `text`."""
        if rank is not None and _START.match(text):
            self.starts[rank] = self.starts.get(rank, 0) + 1
        start = max(self.starts.values(), default=0) if rank is None else self.starts.get(rank, 0)
        while len(self.numbers) < max(start, 1):
            self.numbers.append(self.numbers[-1] + 1 if self.numbers else self.first)
        index = max(start, 1) - 1
        if rank in (0, None) and (announced := _ANNOUNCED.match(text)) is not None:
            self.numbers[index] = int(announced[1])
        return self.numbers[index]


class OutputReader:
    """Reads a run's output from the beginning, and then what is added to it."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._offsets: dict[Path, int] = {}
        self._jobs: dict[str, _Job] = {}

    def new_lines(self, *, also_unfinished: bool = False) -> Iterator[OutputLine]:
        """Yield the lines that are new since the last call, older jobs first.

        Args:
            also_unfinished: yield the last line of a file too where its newline is missing.

        Raises:
            OSError: a file cannot be read.
        """
        for path, job_id, rank in self._files():
            job = self._jobs.setdefault(job_id, _Job(self._next_attempt()))
            with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                for line in self._lines(path, also_unfinished):
                    found, text = (rank, line) if rank is not None else _unlabelled(line)
                    yield OutputLine(job_id, found, job.attempt_of(found, text), text)

    def _files(self) -> list[tuple[Path, str, int | None]]:
        """Return (file, its job, the rank that writes it: None for all) in the order of submission."""
        order = {submission.job_id: index for index, submission in enumerate(all_submissions(self._run))}
        found = []
        for path in self._run.jobs.iterdir() if self._run.jobs.is_dir() else ():
            if (name := _FILE.fullmatch(path.name)) is not None:
                rank = None if name["rank"] is None else int(name["rank"])
                with contextlib.suppress(FileNotFoundError):
                    mtime_ns = path.stat().st_mtime_ns
                    found.append((order.get(name["job"], len(order)), mtime_ns, path, name["job"], rank))
        found.sort(key=lambda item: (item[0], item[1] if item[0] == len(order) else 0, item[4] or 0))
        return [(path, job_id, rank) for _, _, path, job_id, rank in found]

    def _lines(self, path: Path, also_unfinished: bool) -> Iterator[str]:
        offset_bytes = self._offsets.get(path, 0)
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < offset_bytes:  # truncated, as by a tool that rotates logs
                offset_bytes = 0
            file.seek(offset_bytes)
            for line in file:
                if not (line.endswith(b"\n") or also_unfinished):
                    return
                offset_bytes += len(line)
                self._offsets[path] = offset_bytes
                # Of a progress bar that redraws itself, the last state counts.
                yield line.removesuffix(b"\n").decode(errors="replace").rstrip("\r").rpartition("\r")[2]

    def _next_attempt(self) -> int:
        return max((job.numbers[-1] for job in self._jobs.values() if job.numbers), default=0) + 1


def last_output(run: RunDirectory, number: int) -> tuple[list[str], Path | None]:
    """Return the last `number` lines that a task or Slurm printed, and their file; None where there is none."""
    logs = sorted((*run.jobs.glob("*.log"), *run.jobs.glob("*_log.out")), key=lambda path: path.stat().st_mtime)
    if not logs:
        return [], None
    return logs[-1].read_text(errors="replace").splitlines()[-number:], logs[-1]


def _unlabelled(line: str) -> tuple[int | None, str]:
    label = _LABEL.fullmatch(line)
    return (None, line) if label is None else (int(label["rank"]), label["text"])
