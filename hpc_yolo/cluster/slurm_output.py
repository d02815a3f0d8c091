"""Parsers of what Slurm's commands print. Pure functions of text; `scheduler` runs the commands.

The output differs between versions of Slurm (22.05 to 26.05 are recorded in `tests/cluster/recorded`). A column that
cannot be parsed becomes None or "", an unknown state counts as alive, and no line of output raises an error.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hpc_yolo.core.errors import ClusterError
from hpc_yolo.core.units import parse_time_s

UNKNOWN = "UNKNOWN"  # neither squeue nor sacct knows the job
UNREADABLE = "?"  # printed by Slurm for a state without a name

# Every other state counts as alive, so that a state of a newer Slurm does not make a queued job look ended.
OVER_STATES = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED"}
    | {"NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"}
)
# States of a queued job; a state that is in neither list counts as waiting while the job has no nodes.
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

SLURM_TIME = "%Y-%m-%dT%H:%M:%S"  # in the time zone of this machine

_JOB_ID = re.compile(r"\d+(_\S+)?")
_EXIT_PAIR = re.compile(r"(\d+):(\d+)")  # code:signal; printed by squeue since 23.02
_SUBMITTED = re.compile(r"^\s*(\d+)(?:;\S+)?\s*$", re.MULTILINE)
_WAIT_STATUS_LIMIT = 0x10000  # squeue up to 22.05 prints the status of wait(2)


@dataclass(frozen=True)
class SchedulerProbe:
    """Whether Slurm answers, and a clause for messages about how that was determined."""

    available: bool
    reason: str


@dataclass(frozen=True)
class JobState:
    """State of one job as Slurm reports it.

    Attributes:
        state: as Slurm prints it, such as PENDING or TIMEOUT; UNKNOWN when neither squeue nor sacct knows the job.
        reason: why the job waits or how it failed, as Slurm prints it; may be empty.
        nodes: node list, or empty.
        start: actual or expected start as YYYY-MM-DDThh:mm:ss in the time zone of this machine.
        exit_code, exit_signal: of the batch script; None before its end, where they cannot be parsed, and where sacct
            is needed but does not answer.
        is_stale: squeue has forgotten the job and sacct did not answer.
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
        """True while the job is in the queue and on no node."""
        if self.state in WAITING_STATES:
            return True
        return self.is_alive and self.state not in ON_NODES_STATES and not self.nodes

    @property
    def is_alive(self) -> bool:
        """True while the job waits or runs; False for an unknown one, since squeue lists every job that is alive."""
        return not self.is_over and self.state != UNKNOWN

    @property
    def is_over(self) -> bool:
        """True where Slurm reports that the job has ended."""
        return self.state in OVER_STATES

    @property
    def is_suspended(self) -> bool:
        """True while Slurm has stopped the processes of the job on its nodes."""
        return self.state in ("SUSPENDED", "STOPPED")

    @property
    def is_cancelled(self) -> bool:
        """True where a user or an administrator has cancelled the job."""
        return self.state == "CANCELLED"


@dataclass(frozen=True)
class JobRecord:
    """The controller's record of a job that has not ended.

    Attributes:
        restarts: how often the job was requeued.
        is_at_limit: Slurm ends the job because of its time limit.
        end: when its time limit, or its preemption, ends it, in seconds since 1970; None without a limit.
    """

    state: str
    restarts: int
    is_being_preempted: bool
    is_at_limit: bool = False
    end: float | None = None

    @property
    def is_running(self) -> bool:
        """True while the tasks may continue; False once the job is cancelled or requeued."""
        return self.state == "RUNNING"


@dataclass(frozen=True)
class StepUsage:
    """Accounting of a job's steps. `peak_bytes`: memory of the largest task; None where it is not measured."""

    is_out_of_memory: bool = False
    peak_bytes: int | None = None


@dataclass(frozen=True)
class JobAttempt:
    """An attempt of a job that has ended: its state and when it began, in seconds since 1970."""

    state: str
    began: float | None


@dataclass(frozen=True)
class StartEstimate:
    """The estimate of `sbatch --test-only`: when, on how many CPUs, where; None for what is not printed."""

    start: str | None = None
    num_cpus: int | None = None
    nodes: str | None = None
    partition: str | None = None
    cluster: str | None = None


def parse_ping(stdout: str, stderr: str) -> SchedulerProbe:
    """Parse `scontrol ping`: one line per controller, with UP or DOWN."""
    if re.search(r"\bis UP\b", stdout):
        return SchedulerProbe(True, "a Slurm controller answers")
    if re.search(r"\bis DOWN\b", stdout):
        return SchedulerProbe(False, "the Slurm controller is down")
    message = error_text(stderr or stdout) or "scontrol printed nothing"
    return SchedulerProbe(False, f"no Slurm controller answers ({message})")


def parse_squeue(text: str) -> dict[str, JobState]:
    """Parse squeue's lines in `SQUEUE_FORMAT`: job | state | reason | nodes | start | time left | exit code."""
    return _jobs(text, _squeue_job)


def parse_sacct(text: str) -> dict[str, JobState]:
    """Parse sacct's lines in `SACCT_FORMAT`: job | state | code:signal | nodes | start."""
    return _jobs(text, _sacct_job)


def parse_earlier_attempts(text: str) -> list[JobAttempt]:
    """Parse sacct's lines in `SACCT_FORMAT` with duplicates: the ended attempts of one job, oldest first."""
    ended = OVER_STATES | {"REQUEUED"}
    rows = ((_first_word(fields[1]), fields[4]) for fields in _rows(text, 5))
    return [JobAttempt(state, parse_slurm_clock(start)) for state, start in rows if state in ended]


def parse_step_usage(text: str) -> StepUsage:
    """Parse sacct's lines in `STEP_FORMAT`: step | state | code:signal | peak of the largest task, such as 95608K."""
    rows = [fields for fields in _rows(text, 4) if "." in fields[0]]
    peaks = [_bytes(fields[3]) for fields in rows]
    return StepUsage(
        is_out_of_memory=any(_first_word(fields[1]) == "OUT_OF_MEMORY" or fields[2] == "0:125" for fields in rows),
        peak_bytes=max((peak for peak in peaks if peak), default=None),
    )


def parse_job_record(text: str) -> JobRecord:
    """Parse `scontrol --oneliner show job`.

    Raises:
        ClusterError: `text` has no job.
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
        end=None if fields.get("TimeLimit") == "UNLIMITED" else parse_slurm_clock(fields.get("EndTime", "")),
    )


def parse_submitted(text: str) -> str | None:
    """Return the job id that `sbatch --parsable` prints, 7 or 7;cluster; None where it prints none.

    The sbatch of some sites is a script that prints a greeting and the results of its own checks first.
    """
    found = _SUBMITTED.findall(text)
    return found[-1] if found else None


def parse_test_only(text: str) -> StartEstimate:
    """Parse the sentence of `sbatch --test-only`, each value by itself since the wording changed in 25.05."""

    def after(phrase: str) -> str | None:
        match = re.search(rf"\b{phrase} (\S+)", text)
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
    """Parse squeue's lines, job | comment: job ids by the last word of the comment, where it begins with `prefix`."""
    found = {}
    for line in text.splitlines():
        job, _, comment = line.strip().partition("|")  # the rest is text of the user, which may have further bars
        number, token = re.match(r"\d+", job), comment.rpartition(" ")[2]
        if number and token.startswith(prefix):
            found[token] = number[0]
    return found


def parse_nodes_down(text: str) -> list[str]:
    """Parse sinfo's lines, node | state: the nodes that are down, failing or do not answer (*), sorted."""
    rows = _rows(text, 2)
    return sorted({name for name, state, *_ in rows if state.startswith(("down", "fail")) or state.endswith("*")})


def parse_slurm_clock(text: str) -> float | None:
    """Return seconds since 1970 of a date and time in the time zone of this machine; None for Unknown, N/A, etc."""
    try:
        return time.mktime(time.strptime(text, SLURM_TIME))
    except (ValueError, OverflowError):
        return None


def parse_slurm_time_s(text: str) -> int | None:
    """Return seconds of a duration as squeue, sinfo or scontrol prints it; None for UNLIMITED, NOT_SET, etc."""
    if not text[:1].isdigit():
        return None
    try:
        return 0 if not re.search("[1-9]", text) else parse_time_s(text)
    except ValueError:
        return None


def parse_exit(text: str) -> tuple[int | None, int | None]:
    """Return (exit code, signal) from `3:0` or from a status of wait(2) such as 768; None where it is neither."""
    if pair := _EXIT_PAIR.fullmatch(text):
        return int(pair[1]), int(pair[2])
    status = int(text) if text.isdecimal() else _WAIT_STATUS_LIMIT
    return (status >> 8, status & 0x7F) if status < _WAIT_STATUS_LIMIT else (None, None)


def fields_of(line: str) -> dict[str, str]:
    """Return the `Name=value` pairs in one line of `scontrol --oneliner`.

    The first of a repeated name counts, since later ones may be part of a user's text (SubmitLine, Comment).
    """
    fields: dict[str, str] = {}
    for word in line.split():
        name, equals, value = word.partition("=")
        if equals:
            fields.setdefault(name, value)
    return fields


def error_text(text: str) -> str:
    """Return the errors that Slurm printed in one line, without names of commands and without repetitions."""
    lines = (re.sub(r"^\w+( error)?: (error: |fatal: )?", "", line.strip()) for line in text.splitlines())
    return "; ".join(dict.fromkeys(line for line in lines if line))


def _jobs(text: str, read: Callable[[list[str]], JobState]) -> dict[str, JobState]:
    """Return the jobs of a table by id; lines that do not begin with a job id are warnings and headings."""
    jobs = (read(fields) for fields in _rows(text, 7) if _JOB_ID.fullmatch(fields[0]))
    return {job.job_id: job for job in jobs}


def _rows(text: str, num_columns: int) -> Iterator[list[str]]:
    """Yield the lines of a table as at least `num_columns` fields, missing ones empty."""
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
    """Return the bytes of an amount such as 95608K or 1.5G; None where it is not one."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]?)", text)
    return None if match is None else int(float(match[1]) * 1024 ** " KMGTP".index(match[2] or " "))


def _first_word(text: str) -> str:
    return text.partition(" ")[0]


def _time_or_none(text: str) -> str | None:
    return text if text[:1].isdigit() else None
