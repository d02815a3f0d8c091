"""Read what Slurm's commands print. Pure functions of text; `scheduler` runs the commands.

Slurm's output changes from version to version (22.05 to 26.05 are recorded in `tests/cluster/recorded`). A column that
cannot be read becomes None or "", an unknown state counts as alive, and no line of output raises.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hpc_yolo.core.errors import ClusterError
from hpc_yolo.core.units import parse_time_s

UNKNOWN = "UNKNOWN"  # neither squeue nor sacct knows the job
UNREADABLE = "?"  # as Slurm itself prints a state that it has no name for

# Every other state is alive: a version of Slurm that is newer than this list must not make a queued job look over.
OVER_STATES = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED"}
    | {"NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"}
)
# States of a job that is queued; one that is in neither list waits while it has no nodes.
WAITING_STATES = frozenset(
    {"PENDING", "CONFIGURING", "EXPEDITING", "POWER_UP_NODE", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD"}
    | {"RESV_DEL_HOLD", "SPECIAL_EXIT"}
)
ON_NODES_STATES = frozenset(
    {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT", "UPDATE_DB"}
)

SQUEUE_FORMAT = "JobArrayID:.32|,State:.24|,Reason:.120|,NodeList:.256|,StartTime:.32|,TimeLeft:.24|,exit_code:.12|"
SACCT_FORMAT = "JobID,State,ExitCode,NodeList,Start"
STEP_FORMAT = "JobID,State,ExitCode,MaxRSS"

SLURM_TIME = "%Y-%m-%dT%H:%M:%S"  # of this machine's time zone

_JOB_ID = re.compile(r"\d+(_\S+)?")
_EXIT_PAIR = re.compile(r"(\d+):(\d+)")  # code:signal; squeue has it since 23.02
_WAIT_STATUS_LIMIT = 0x10000  # squeue up to 22.05 prints the status of wait(2)


@dataclass(frozen=True)
class SchedulerProbe:
    """Whether Slurm answers here, and a clause for people that says how that was found."""

    available: bool
    reason: str


@dataclass(frozen=True)
class JobState:
    """State of one job as Slurm reports it.

    Attributes:
        state: Slurm's word, such as PENDING or TIMEOUT; UNKNOWN when neither squeue nor sacct knows the job.
        reason: why it waits or how it failed, in Slurm's words; may be empty.
        nodes: its node list, or empty.
        start: when it started or is expected to, as YYYY-MM-DDThh:mm:ss of this machine's time zone.
        exit_code, exit_signal: of the batch script, once it ended; None before, where they cannot be read, and where
            sacct is needed but silent.
        is_stale: squeue has forgotten the job and sacct gave no answer.
    """

    job_id: str
    state: str
    reason: str = ""
    nodes: str = ""
    start: str | None = None
    time_left_s: int | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    is_stale: bool = False

    @property
    def is_waiting(self) -> bool:
        """Whether the job is in the queue and on no node."""
        if self.state in WAITING_STATES:
            return True
        return self.is_alive and self.state not in ON_NODES_STATES and not self.nodes

    @property
    def is_alive(self) -> bool:
        """Whether the job waits or runs; an unknown one does not, since squeue lists every job that does."""
        return not self.is_over and self.state != UNKNOWN

    @property
    def is_over(self) -> bool:
        """Whether Slurm knows that the job has ended."""
        return self.state in OVER_STATES

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody has cancelled the job."""
        return self.state == "CANCELLED"


@dataclass(frozen=True)
class JobRecord:
    """What the controller holds of a job that is not over.

    Attributes:
        restarts: how often it was put back into the queue.
        is_at_limit: Slurm ends it because its time is up.
    """

    state: str
    restarts: int
    is_being_preempted: bool
    is_at_limit: bool = False

    @property
    def is_running(self) -> bool:
        """Whether its tasks may go on; not so once it is cancelled or back in the queue."""
        return self.state == "RUNNING"


@dataclass(frozen=True)
class StepUsage:
    """What accounting knows of a job's steps. `peak_bytes`: of the task that took most; None where nobody measures."""

    is_out_of_memory: bool = False
    peak_bytes: int | None = None


@dataclass(frozen=True)
class EndedStart:
    """A start of a job that is over: Slurm's state of it, and when it began, in seconds since 1970."""

    state: str
    began: float | None


@dataclass(frozen=True)
class StartEstimate:
    """Slurm's guess of `sbatch --test-only`: when, on how many CPUs, where; None for what is not printed."""

    start: str | None = None
    num_cpus: int | None = None
    nodes: str | None = None
    partition: str | None = None
    cluster: str | None = None


def parse_ping(stdout: str, stderr: str) -> SchedulerProbe:
    """Read `scontrol ping`: one line a controller, with UP or DOWN."""
    if re.search(r"\bis UP\b", stdout):
        return SchedulerProbe(True, "a Slurm controller answers")
    if re.search(r"\bis DOWN\b", stdout):
        return SchedulerProbe(False, "the Slurm controller is down")
    said = complaint(stderr or stdout) or "scontrol is silent"
    return SchedulerProbe(False, f"no Slurm controller answers ({said})")


def parse_squeue(text: str) -> dict[str, JobState]:
    """Read squeue's lines in `SQUEUE_FORMAT`: job | state | reason | nodes | start | time left | exit code."""
    return _jobs(text, _squeue_job)


def parse_sacct(text: str) -> dict[str, JobState]:
    """Read sacct's lines in `SACCT_FORMAT`: job | state | code:signal | nodes | start."""
    return _jobs(text, _sacct_job)


def parse_earlier_starts(text: str) -> list[EndedStart]:
    """Read sacct's lines in `SACCT_FORMAT` with duplicates: the starts of one job that are over, oldest first."""
    ended = OVER_STATES | {"REQUEUED"}
    rows = ((_first_word(fields[1]), fields[4]) for fields in _rows(text, 5))
    return [EndedStart(state, parse_slurm_clock(start)) for state, start in rows if state in ended]


def parse_step_usage(text: str) -> StepUsage:
    """Read sacct's lines in `STEP_FORMAT`: step | state | code:signal | peak of its largest task, such as 95608K."""
    rows = [fields for fields in _rows(text, 4) if "." in fields[0]]
    peaks = [_bytes(fields[3]) for fields in rows]
    return StepUsage(
        is_out_of_memory=any(_first_word(fields[1]) == "OUT_OF_MEMORY" or fields[2] == "0:125" for fields in rows),
        peak_bytes=max((peak for peak in peaks if peak), default=None),
    )


def parse_job_record(text: str) -> JobRecord:
    """Read `scontrol --oneliner show job`.

    Raises:
        ClusterError: there is no job in it.
    """
    fields = fields_of(text)
    if "JobState" not in fields:
        raise ClusterError(f"scontrol shows no job: {text.strip() or 'nothing'}")
    restarts = fields.get("Restarts", "")
    return JobRecord(
        state=fields["JobState"] or UNREADABLE,
        restarts=int(restarts) if restarts.isdecimal() else 0,
        is_being_preempted=fields.get("PreemptTime", "")[:1].isdigit(),
        is_at_limit=fields.get("Reason") == "TimeLimit",
    )


def parse_test_only(text: str) -> StartEstimate:
    """Read the sentence of `sbatch --test-only`; its wording changed in 25.05, so each fact is looked for by itself."""

    def after(words: str) -> str | None:
        match = re.search(rf"\b{words} (\S+)", text)
        return match and match[1]

    cpus = re.search(r"\busing (\d+) ", text)
    return StartEstimate(
        start=_time_or_none(after("to start at") or ""),
        num_cpus=cpus and int(cpus[1]),
        nodes=after("on nodes"),
        partition=after("in partition"),
        cluster=after("on cluster"),
    )


def parse_comments(text: str, prefix: str) -> dict[str, str]:
    """Read squeue's lines, job | comment: the number of each job whose comment ends in a word with `prefix`, by it."""
    found = {}
    for job, comment, *_ in _rows(text, 2):
        number, token = re.match(r"\d+", job), comment.rpartition(" ")[2]
        if number and token.startswith(prefix):
            found[token] = number[0]
    return found


def parse_nodes_down(text: str) -> list[str]:
    """Read sinfo's lines, node | state: the nodes that are down, failing or do not answer (*), sorted."""
    rows = _rows(text, 2)
    return sorted({name for name, state, *_ in rows if state.startswith(("down", "fail")) or state.endswith("*")})


def parse_slurm_clock(text: str) -> float | None:
    """Return seconds since 1970 of a date and time of this machine's time zone; None for Unknown, N/A and the like."""
    try:
        return time.mktime(time.strptime(text, SLURM_TIME))
    except (ValueError, OverflowError):
        return None


def parse_slurm_time_s(text: str) -> int | None:
    """Seconds in a time that squeue, sinfo or scontrol prints; None for UNLIMITED, INVALID, NOT_SET and the like."""
    if not text[:1].isdigit():
        return None
    try:
        return 0 if not re.search("[1-9]", text) else parse_time_s(text)
    except ValueError:
        return None


def parse_exit(text: str) -> tuple[int | None, int | None]:
    """(exit code, signal) from `3:0`, or from a status of wait(2) such as 768; None where it is neither."""
    if pair := _EXIT_PAIR.fullmatch(text):
        return int(pair[1]), int(pair[2])
    status = int(text) if text.isdecimal() else _WAIT_STATUS_LIMIT
    return (status >> 8, status & 0x7F) if status < _WAIT_STATUS_LIMIT else (None, None)


def fields_of(line: str) -> dict[str, str]:
    """`Name=value` words of one line of `scontrol --oneliner`; of a repeated name the first, since later ones may
    stand in text that a person gave (SubmitLine, Comment)."""
    fields: dict[str, str] = {}
    for word in line.split():
        name, equals, value = word.partition("=")
        if equals:
            fields.setdefault(name, value)
    return fields


def complaint(text: str) -> str:
    """Slurm's errors in one line, without the names of its commands and without repetitions."""
    lines = (re.sub(r"^\w+( error)?: (error: |fatal: )?", "", line.strip()) for line in text.splitlines())
    return "; ".join(dict.fromkeys(line for line in lines if line))


def _jobs(text: str, read: Callable[[list[str]], JobState]) -> dict[str, JobState]:
    """The jobs in a table, by id; lines that do not begin with a job id are warnings and headings."""
    jobs = (read(fields) for fields in _rows(text, 7) if _JOB_ID.fullmatch(fields[0]))
    return {job.job_id: job for job in jobs}


def _rows(text: str, num_columns: int) -> Iterator[list[str]]:
    """Lines of a table as at least `num_columns` fields, missing ones empty."""
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if fields != [""]:
            yield fields + [""] * (num_columns - len(fields))


def _squeue_job(fields: list[str]) -> JobState:
    job_id, state, reason, nodes, start, time_left, status = fields[:7]
    job = JobState(
        job_id=job_id,
        state=state or UNREADABLE,
        reason="" if reason == "None" else reason,
        nodes=nodes,
        start=_time_or_none(start),
        time_left_s=parse_slurm_time_s(time_left),
    )
    return job if job.is_alive else _with_exit(job, status)


def _sacct_job(fields: list[str]) -> JobState:
    job_id, state, exit_pair, nodes, start = fields[:5]
    job = JobState(
        job_id=job_id,
        state=_first_word(state) or UNREADABLE,  # "CANCELLED by 1000"
        reason=state.partition(" ")[2],
        nodes="" if nodes == "None assigned" else nodes,
        start=_time_or_none(start),
    )
    return job if job.is_alive else _with_exit(job, exit_pair)


def _with_exit(job: JobState, exit_text: str) -> JobState:
    return JobState(job.job_id, job.state, job.reason, job.nodes, job.start, None, *parse_exit(exit_text))


def _bytes(text: str) -> int | None:
    """Bytes in an amount such as 95608K or 1.5G; None where it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]?)", text)
    return None if match is None else int(float(match[1]) * 1024 ** " KMGTP".index(match[2] or " "))


def _first_word(text: str) -> str:
    return text.partition(" ")[0]


def _time_or_none(text: str) -> str | None:
    return text if text[:1].isdigit() else None
