"""The only door to Slurm's commands.

Every call has a time limit, runs in the C locale and without a surrounding job's variables, and fails with Slurm's own
words. What a command prints is read by pure functions (`parse_*`). Tests may replace the one edge to the world, `run`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_yolo.cluster.process import clean_environment, current_environment
from hpc_yolo.errors import ClusterError, SchedulerUnavailable
from hpc_yolo.quantities import parse_time_s

QUERY_TIMEOUT_S = 10.0
LOOK_TIMEOUT_S = 2.4  # for commands at which somebody looks: they would rather have what the run directory knows
CHANGE_TIMEOUT_S = 30.0
UNKNOWN = "UNKNOWN"

WAITING_STATES = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
)
ACTIVE_STATES = frozenset(
    {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"}  # on nodes
)

_SQUEUE_FORMAT = "JobArrayID:.32|,State:.24|,Reason:.120|,NodeList:.256|,StartTime:.32|,TimeLeft:.24|,exit_code:.12|"
_SACCT_FORMAT = "JobID,State,ExitCode,NodeList,Start"
# Variables by which people change what the query commands select and print.
_QUERY_PREFIXES = ("SQUEUE_", "SACCT_", "SINFO_", "SCONTROL_")
_NO_ANSWER = re.compile(
    r"Unable to contact slurm controller|Connection (refused|timed out)|Socket timed out|Zero Bytes were transmitted"
    r"|Could not establish a configuration source|Unexpected message received"
)
_TEST_ONLY = re.compile(
    r"Job \d+ to start at (?P<start>\S+) using (?P<cpus>\d+) processors on nodes (?P<nodes>\S+) "
    r"in partition (?P<partition>\S+)"
)


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[[Sequence[str], float], Finished]


@dataclass(frozen=True)
class SchedulerProbe:
    """Whether Slurm answers here, and a clause for people that says how that was found."""

    available: bool
    reason: str


@dataclass(frozen=True)
class JobState:
    """What Slurm says of one job.

    Attributes:
        state: Slurm's word, such as PENDING or TIMEOUT; UNKNOWN when neither squeue nor sacct knows the job.
        reason: why it waits or how it failed, in Slurm's words; may be empty.
        nodes: its node list, or empty.
        start: when it started or is expected to, as YYYY-MM-DDThh:mm:ss of this machine's time zone.
        exit_code, exit_signal: of the batch script, once it ended; None before, and where sacct is needed but silent.
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
        return self.state in WAITING_STATES

    @property
    def is_alive(self) -> bool:
        """Whether the job waits or runs; an UNKNOWN one is over, for squeue names every other."""
        return self.is_waiting or self.state in ACTIVE_STATES


@dataclass(frozen=True)
class JobRecord:
    """What the controller holds of a job that is not over. `restarts`: how often it was put back into the queue."""

    state: str
    restarts: int
    is_being_preempted: bool

    @property
    def is_running(self) -> bool:
        """Whether its tasks may go on; not so once it is cancelled or back in the queue."""
        return self.state == "RUNNING"


@dataclass(frozen=True)
class BatchJob:
    """What sbatch was given: the script's text, its arguments, and the folder in which it starts."""

    script: str
    arguments: tuple[str, ...]
    folder: str


@dataclass(frozen=True)
class StartEstimate:
    """Slurm's guess of `sbatch --test-only`: when, on how many CPUs, where."""

    start: str
    num_cpus: int
    nodes: str
    partition: str


def run_command(words: Sequence[str], timeout_s: float) -> Finished:
    """Run one of Slurm's commands as it would run in a fresh login.

    Raises:
        SchedulerUnavailable: it is not installed or gave no answer within `timeout_s`.
    """
    environ = clean_environment(current_environment())
    kept = {name: value for name, value in environ.items() if not name.startswith(_QUERY_PREFIXES)}
    try:
        done = subprocess.run(
            words,
            env={**kept, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise SchedulerUnavailable(f"Slurm's {words[0]} is not installed here") from None
    except subprocess.TimeoutExpired:
        raise SchedulerUnavailable(f"{words[0]} gave no answer within {timeout_s:g} s") from None
    return Finished(done.returncode, done.stdout, done.stderr)


def probe(timeout_s: float = 3.0, *, run: Run = run_command) -> SchedulerProbe:
    """Whether jobs can be queued here: sbatch is installed and a controller says that it is up within `timeout_s`."""
    if run is run_command and shutil.which("sbatch") is None:
        return SchedulerProbe(False, "sbatch is not installed here")
    try:
        answer = run(["scontrol", "ping"], timeout_s)
    except SchedulerUnavailable as error:
        return SchedulerProbe(False, f"no Slurm controller answers ({error.message})")
    return parse_ping(answer.stdout, answer.stderr)


def is_available(timeout_s: float = 3.0, *, run: Run = run_command) -> bool:
    """Whether jobs can be queued here."""
    return probe(timeout_s, run=run).available


def submit_script(
    path: Path, options: Sequence[str] = (), arguments: Sequence[str] = (), *, run: Run = run_command
) -> str:
    """Queue the script at `path`, with sbatch's `options` and `arguments` for the script; the job's id.

    Raises:
        ClusterError: Slurm refuses; the message has its words.
        SchedulerUnavailable: no answer; whether the job was queued is not known.
    """
    answer = _ask(["sbatch", "--parsable", *options, str(path), *arguments], CHANGE_TIMEOUT_S, run)
    return answer.strip().partition(";")[0]


def estimate_start(path: Path, options: Sequence[str] = (), *, run: Run = run_command) -> StartEstimate:
    """When and where the script at `path` would start, by `sbatch --test-only`; nothing is queued.

    Raises:
        ClusterError: it could never start as it is; the message has Slurm's words.
    """
    answer = run(["sbatch", "--test-only", *options, str(path)], CHANGE_TIMEOUT_S)
    estimate = parse_test_only(answer.stderr)
    if answer.returncode != 0 or estimate is None:
        raise _refusal("sbatch", answer)
    return estimate


def cancel(job_ids: Iterable[str], *, run: Run = run_command) -> None:
    """End the jobs. One that is over already is no error.

    Raises:
        ClusterError: Slurm refuses, for instance somebody else's job.
    """
    ids = list(job_ids)
    if ids:
        _ask(["scancel", "--quiet", *ids], CHANGE_TIMEOUT_S, run)


def requeue(job_id: str, *, run: Run = run_command) -> None:
    """Put a running job back into the queue. Its tasks get SIGTERM at once: first make everything durable.

    Raises:
        ClusterError: Slurm refuses, for instance a job that was submitted with --no-requeue.
    """
    _ask(["scontrol", "requeue", job_id], CHANGE_TIMEOUT_S, run)


def job_states(
    job_ids: Iterable[str], timeout_s: float = 2 * QUERY_TIMEOUT_S, *, run: Run = run_command
) -> dict[str, JobState]:
    """The state of every job in `job_ids`, by one call of squeue and, for those it has forgotten, one of sacct.

    An array's id brings the states of all its tasks, each under its own id. Where sacct is missing or has no
    database, forgotten jobs are UNKNOWN and stale; one that accounting believes alive, but squeue does not, is UNKNOWN.

    Args:
        timeout_s: for both; accounting gets half of it at most.

    Raises:
        SchedulerUnavailable: squeue gave no answer.
        ClusterError: something that is no job id.
    """
    wanted = list(dict.fromkeys(job_ids))
    if not wanted:
        return {}
    found = _ask_squeue(wanted, timeout_s / 2, run)
    forgotten = [job_id for job_id in wanted if not _is_covered(job_id, found)]
    if not forgotten:
        return found
    told, is_stale = _ask_sacct(forgotten, timeout_s / 2, run)
    over = {job_id: job for job_id, job in told.items() if not job.is_alive}
    lost = [job_id for job_id in forgotten if not _is_covered(job_id, over)]
    return found | over | {job_id: JobState(job_id, UNKNOWN, is_stale=is_stale) for job_id in lost}


def job_record(job_id: str, *, run: Run = run_command) -> JobRecord:
    """What the controller holds of a job.

    Raises:
        ClusterError: it does not know the job, or does not answer.
    """
    return parse_job_record(_ask(["scontrol", "--oneliner", "show", "job", job_id], QUERY_TIMEOUT_S, run))


def earlier_states(job_id: str, *, run: Run = run_command) -> list[str]:
    """How earlier starts of a job ended, in Slurm's words, oldest first; [] where there is no accounting."""
    words = ["sacct", "--noheader", "--parsable2", "--allocations", "--duplicates", f"--jobs={job_id}"]
    answer = run([*words, f"--format={_SACCT_FORMAT}"], QUERY_TIMEOUT_S)
    lines = [line.split("|") for line in answer.stdout.splitlines()] if answer.returncode == 0 else []
    states = [fields[1].split()[0] for fields in lines]
    return [state for state in states if state not in WAITING_STATES - {"REQUEUED"} and state not in ACTIVE_STATES]


def nodes_down(nodes: Iterable[str], *, run: Run = run_command) -> list[str]:
    """Those of `nodes` that are down or do not answer.

    Raises:
        ClusterError: sinfo gave no answer, or does not know a node.
    """
    words = ["sinfo", "--noheader", "--Node", f"--nodes={','.join(sorted(nodes))}", "--format=%N|%T"]
    states = [line.split("|") for line in _ask(words, QUERY_TIMEOUT_S, run).splitlines()]
    return sorted({name for name, state in states if state.startswith(("down", "fail")) or state.endswith("*")})


def exclude_nodes(job_id: str, nodes: Sequence[str], *, run: Run = run_command) -> None:
    """Keep a job that waits in the queue away from `nodes`.

    Raises:
        ClusterError: Slurm refuses.
    """
    _ask(["scontrol", "update", f"JobId={job_id}", f"ExcNodeList={','.join(nodes)}"], CHANGE_TIMEOUT_S, run)


def batch_job(job_id: str, *, run: Run = run_command) -> BatchJob:
    """With what a job was submitted.

    Raises:
        ClusterError: Slurm does not know the job, or it is somebody else's.
    """
    script = _ask(["scontrol", "write", "batch_script", job_id, "-"], QUERY_TIMEOUT_S, run)
    arguments, folder = parse_batch_command(_ask(["scontrol", "show", "job", job_id], QUERY_TIMEOUT_S, run))
    return BatchJob(script, arguments, folder)


def shown_settings(of_what: str, timeout_s: float, *, run: Run = run_command) -> str:
    """What `scontrol show` prints of `of_what`, config or partition; `cluster.site` reads it.

    Raises:
        SchedulerUnavailable: no answer within `timeout_s`.
    """
    return _ask(["scontrol", "--all", "--oneliner", "show", of_what], timeout_s, run)


def shown_qos(timeout_s: float, *, run: Run = run_command) -> str:
    """Lines of every quality of service: name | grace time | preempt mode. `cluster.site` reads them.

    Raises:
        ClusterError: no accounting, or no answer within `timeout_s`.
    """
    words = ["sacctmgr", "--noheader", "--parsable2", "--readonly", "show", "qos"]
    return _ask([*words, "format=Name,GraceTime,PreemptMode"], timeout_s, run)


def parse_ping(stdout: str, stderr: str) -> SchedulerProbe:
    """Read `scontrol ping`: one line a controller, each ending in UP or DOWN."""
    if any(line.endswith("is UP") for line in stdout.splitlines()):
        return SchedulerProbe(True, "a Slurm controller answers")
    if "is DOWN" in stdout:
        return SchedulerProbe(False, "the Slurm controller is down")
    return SchedulerProbe(
        False, f"no Slurm controller answers ({_own_words(stderr or stdout) or 'scontrol is silent'})"
    )


def parse_squeue(text: str) -> dict[str, JobState]:
    """Read squeue's lines in `_SQUEUE_FORMAT`: job | state | reason | nodes | start | time left | wait status."""
    found = {}
    for line in text.splitlines():
        job_id, state, reason, nodes, start, time_left, status = (field.strip() for field in line.split("|")[:7])
        job = JobState(
            job_id=job_id,
            state=state,
            reason="" if reason == "None" else reason,
            nodes=nodes,
            start=_time_or_none(start),
            time_left_s=parse_slurm_time_s(time_left),
        )
        found[job_id] = job if job.is_alive else _with_exit(job, int(status) >> 8, int(status) & 0x7F)
    return found


def parse_job_record(text: str) -> JobRecord:
    """Read `scontrol --oneliner show job`.

    Raises:
        ClusterError: there is no job in it.
    """
    fields = dict(word.partition("=")[::2] for word in text.split())
    if "JobState" not in fields:
        raise ClusterError(f"scontrol shows no job: {text.strip() or 'nothing'}")
    return JobRecord(
        state=fields["JobState"],
        restarts=int(fields.get("Restarts", "0")),
        is_being_preempted=fields.get("PreemptTime", "None") not in ("None", "Unknown"),
    )


def parse_sacct(text: str) -> dict[str, JobState]:
    """Read sacct's lines in `_SACCT_FORMAT`: job | state | code:signal | nodes | start."""
    found = {}
    for line in text.splitlines():
        job_id, state, exit_pair, nodes, start = line.split("|")[:5]
        code, _, signal_number = exit_pair.partition(":")
        job = JobState(
            job_id=job_id,
            state=state.split()[0],  # "CANCELLED by 1000"
            reason=state.partition(" ")[2],
            nodes="" if nodes == "None assigned" else nodes,
            start=_time_or_none(start),
        )
        found[job_id] = job if job.is_alive else _with_exit(job, int(code), int(signal_number or 0))
    return found


def parse_batch_command(text: str) -> tuple[tuple[str, ...], str]:
    """(the arguments, the folder) from `scontrol show job`, which does not tell spaces in an argument apart."""
    fields = dict(line.strip().partition("=")[::2] for line in text.splitlines())
    return tuple(fields.get("Command", "").split()[1:]), fields.get("WorkDir", "")


def parse_test_only(text: str) -> StartEstimate | None:
    """Read the sentence of `sbatch --test-only`; None where it is a refusal."""
    match = _TEST_ONLY.search(text)
    return match and StartEstimate(match["start"], int(match["cpus"]), match["nodes"], match["partition"])


def parse_slurm_time_s(text: str) -> int | None:
    """Seconds in a time that squeue or sinfo prints; None for UNLIMITED, infinite, NOT_SET and the like."""
    if not text[:1].isdigit():
        return None
    return 0 if not re.search("[1-9]", text) else parse_time_s(text)


def _ask_squeue(job_ids: Sequence[str], timeout_s: float, run: Run) -> dict[str, JobState]:
    words = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(job_ids)}"]
    answer = run([*words, f"--Format={_SQUEUE_FORMAT}"], timeout_s)
    if answer.returncode != 0:
        if "Invalid job id specified" in answer.stderr:  # said when a single job is asked for and forgotten
            return {}
        raise _refusal("squeue", answer)
    return parse_squeue(answer.stdout)


def _ask_sacct(job_ids: Sequence[str], timeout_s: float, run: Run) -> tuple[dict[str, JobState], bool]:
    """(what accounting knows, whether it gave no answer). Sites without accounting have no working sacct."""
    words = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(job_ids)}"]
    try:
        answer = run([*words, f"--format={_SACCT_FORMAT}"], timeout_s)
    except SchedulerUnavailable:
        return {}, True
    return (parse_sacct(answer.stdout), False) if answer.returncode == 0 else ({}, True)


def _is_covered(job_id: str, found: Iterable[str]) -> bool:
    """Whether `found` has the job, or tasks of the array that it names."""
    return any(other == job_id or other.startswith(f"{job_id}_") for other in found)


def _with_exit(job: JobState, code: int, signal_number: int) -> JobState:
    return JobState(job.job_id, job.state, job.reason, job.nodes, job.start, None, code, signal_number)


def _time_or_none(text: str) -> str | None:
    return text if text[:1].isdigit() else None


def _ask(words: Sequence[str], timeout_s: float, run: Run) -> str:
    answer = run(words, timeout_s)
    if answer.returncode != 0:
        raise _refusal(words[0], answer)
    return answer.stdout


def _refusal(command: str, answer: Finished) -> ClusterError:
    said = _own_words(answer.stderr or answer.stdout) or f"it ended with {answer.returncode} and said nothing"
    if _NO_ANSWER.search(said):
        return SchedulerUnavailable(
            f"{command}: {said}", hint="try again when the controller is back; see scontrol ping"
        )
    return ClusterError(f"{command}: {said}")


def _own_words(text: str) -> str:
    """Slurm's complaints in one line, without the names of its commands and without saying a thing twice."""
    lines = (re.sub(r"^\w+( error)?: (error: |fatal: )?", "", line.strip()) for line in text.splitlines())
    return "; ".join(dict.fromkeys(line for line in lines if line))
