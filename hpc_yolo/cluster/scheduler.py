"""The only door to Slurm's commands.

Every call has a time limit, runs in the C locale and without a surrounding job's variables, and fails with Slurm's own
words. `slurm_output` reads what a command prints. Tests may replace the one edge to the world, `run`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_yolo.cluster.batch_job import BatchJob, parse_batch_job
from hpc_yolo.cluster.process import clean_environment, current_environment
from hpc_yolo.cluster.sbatch_variables import PREFIX as SBATCH_PREFIX
from hpc_yolo.cluster.slurm_output import (
    SACCT_FORMAT,
    SQUEUE_FORMAT,
    STEP_FORMAT,
    UNKNOWN,
    EndedStart,
    JobRecord,
    JobState,
    SchedulerProbe,
    StartEstimate,
    StepUsage,
    complaint,
    parse_comments,
    parse_earlier_starts,
    parse_job_record,
    parse_nodes_down,
    parse_ping,
    parse_sacct,
    parse_squeue,
    parse_step_usage,
    parse_test_only,
)
from hpc_yolo.core.errors import ClusterError, SchedulerUnavailable

QUERY_TIMEOUT_S = 10.0
LOOK_TIMEOUT_S = 2.4  # for commands at which somebody looks: they would rather have what the run directory knows
CHANGE_TIMEOUT_S = 30.0
SUBMIT_TIMEOUT_S = 120.0  # sbatch itself tries again while the controller is too busy to take a job
ACCOUNTING_LAG_S, ACCOUNTING_POLL_S = 15.0, 0.5
# Variables by which people change what the query commands select and print.
_QUERY_PREFIXES = ("SQUEUE_", "SACCT_", "SINFO_", "SCONTROL_")
_NO_ANSWER = re.compile(
    r"Unable to contact slurm controller|Connection (refused|timed out)|Socket timed out|Zero Bytes were transmitted"
    r"|Could not establish a configuration source|Unexpected message received|Communication connection failure"
    r"|Message (send|receive) failure|Protocol authentication error"
)


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[[Sequence[str], float], Finished]


def run_command(
    words: Sequence[str], timeout_s: float, *, sbatch_variables: Mapping[str, str] | None = None
) -> Finished:
    """Run one of Slurm's commands as it would run in a fresh login.

    Args:
        sbatch_variables: takes the place of those of the environment, where given.

    Raises:
        SchedulerUnavailable: it is not installed or gave no answer within `timeout_s`.
    """
    environ = clean_environment(current_environment())
    prefixes = _QUERY_PREFIXES if sbatch_variables is None else (*_QUERY_PREFIXES, SBATCH_PREFIX)
    kept = {name: value for name, value in environ.items() if not name.startswith(prefixes)}
    try:
        done = subprocess.run(
            words,
            env={**kept, **(sbatch_variables or {}), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise SchedulerUnavailable(f"Slurm's {words[0]} is not installed here") from None
    except OSError as error:
        raise SchedulerUnavailable(f"Slurm's {words[0]} cannot be run here: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise SchedulerUnavailable(f"{words[0]} gave no answer within {timeout_s:g} s") from None
    return Finished(done.returncode, done.stdout, done.stderr)


def with_sbatch_variables(variables: Mapping[str, str]) -> Run:
    """Return `run_command` with these SBATCH_ variables and no others."""
    return functools.partial(run_command, sbatch_variables=dict(variables))


def on_cluster(cluster: str | None, run: Run = run_command) -> Run:
    """Return `run` for commands that go to another cluster of the site; None is the cluster of this machine."""
    if cluster is None:
        return run
    return lambda words, timeout_s: run([words[0], f"--clusters={cluster}", *words[1:]], timeout_s)


def probe(timeout_s: float = 3.0, *, run: Run = run_command) -> SchedulerProbe:
    """Whether jobs can be queued here: sbatch is installed and a controller says that it is up within `timeout_s`."""
    if run is run_command and not is_installed():
        return SchedulerProbe(False, "sbatch is not installed here")
    try:
        answer = run(["scontrol", "ping"], timeout_s)
    except SchedulerUnavailable as error:
        return SchedulerProbe(False, f"no Slurm controller answers ({error.message})")
    return parse_ping(answer.stdout, answer.stderr)


def is_installed() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("sbatch") is not None


def require_available(timeout_s: float = 3.0, *, run: Run = run_command) -> None:
    """Return if jobs can be queued here.

    Raises:
        SchedulerUnavailable: sbatch is not installed, or no controller answers within `timeout_s`.
    """
    if not (found := probe(timeout_s, run=run)).available:
        raise SchedulerUnavailable(
            f"the run goes to Slurm, but {found.reason}",
            hint="try again when Slurm answers (scontrol ping), or train on this machine with --local",
        )


def submit_script(
    path: Path, options: Sequence[str] = (), arguments: Sequence[str] = (), *, run: Run = run_command
) -> str:
    """Queue the script at `path`, with sbatch's `options` and `arguments` for the script; the job's id.

    Raises:
        ClusterError: Slurm refuses; the message has its words.
        SchedulerUnavailable: no answer; whether the job was queued is not known.
    """
    answer = _ask(["sbatch", "--parsable", *options, str(path), *arguments], SUBMIT_TIMEOUT_S, run)
    return answer.strip().partition(";")[0]


def jobs_by_comment(prefix: str, timeout_s: float = QUERY_TIMEOUT_S, *, run: Run = run_command) -> dict[str, str]:
    """Numbers of this person's jobs in the queue, by the last word of their comment, where that has `prefix`.

    Raises:
        SchedulerUnavailable: no answer.
    """
    words = ["squeue", "--me", "--noheader", "--states=all", "--format=%i|%k"]
    return parse_comments(_ask(words, timeout_s, run), prefix)


def estimate_start(path: Path, options: Sequence[str] = (), *, run: Run = run_command) -> StartEstimate:
    """When and where the script at `path` would start, by `sbatch --test-only`; nothing is queued.

    Raises:
        ClusterError: it could never start as it is; the message has Slurm's words.
    """
    answer = run(["sbatch", "--test-only", *options, str(path)], CHANGE_TIMEOUT_S)
    if answer.returncode != 0:
        raise _refusal("sbatch", answer)
    return parse_test_only(answer.stderr)


def cancel(job_ids: Iterable[str], *, run: Run = run_command) -> None:
    """End the jobs; `7@far` is job 7 of the cluster far. One that is over already is no error.

    Raises:
        ClusterError: Slurm refuses, for instance somebody else's job.
    """
    for cluster, ids in _by_cluster(job_ids).items():
        _ask(["scancel", "--quiet", *ids], CHANGE_TIMEOUT_S, on_cluster(cluster, run))


def requeue(job_id: str, *, run: Run = run_command) -> None:
    """Put a running job back into the queue. Its tasks get SIGTERM at once: first make everything durable.

    Args:
        job_id: `7`, or `7@far` on another cluster.

    Raises:
        ClusterError: Slurm refuses, for instance a job that was submitted with --no-requeue.
    """
    number, _, cluster = job_id.partition("@")
    _ask(["scontrol", "requeue", number], CHANGE_TIMEOUT_S, on_cluster(cluster or None, run))


def set_requeue(job_id: str, *, allowed: bool, run: Run = run_command) -> None:
    """Say whether Slurm may start a job anew.

    Raises:
        ClusterError: Slurm refuses.
    """
    _ask(["scontrol", "update", f"JobId={job_id}", f"Requeue={int(allowed)}"], CHANGE_TIMEOUT_S, run)


def step_usage(job_id: str, *, run: Run = run_command) -> StepUsage:
    """What accounting knows of the steps of a job's last start.

    Raises:
        ClusterError: no accounting, or no answer.
    """
    words = ["sacct", "--noheader", "--parsable2", f"--jobs={job_id}", f"--format={STEP_FORMAT}"]
    return parse_step_usage(_ask(words, QUERY_TIMEOUT_S, run))


def job_states(
    job_ids: Iterable[str], timeout_s: float = 2 * QUERY_TIMEOUT_S, *, run: Run = run_command
) -> dict[str, JobState]:
    """The state of every job in `job_ids`, by one call of squeue and, for those it has forgotten, one of sacct.

    A job of another cluster is given and comes back as `7@far`; each cluster is asked by calls of its own. One that
    does not answer leaves its jobs out, unless none answers.

    An array's id brings the states of all its tasks, each under its own id. Where sacct is missing or has no
    database, forgotten jobs are UNKNOWN and stale; one that accounting believes alive, but squeue does not, is UNKNOWN.

    Args:
        timeout_s: for both; accounting gets half of it at most.

    Raises:
        SchedulerUnavailable: squeue gave no answer.
        ClusterError: something that is no job id.
    """
    groups = _by_cluster(job_ids)
    states: dict[str, JobState] = {}
    refusals: list[ClusterError] = []
    for cluster, ids in groups.items():
        try:
            found = _job_states(ids, timeout_s / len(groups), on_cluster(cluster, run))
        except ClusterError as refusal:
            refusals.append(refusal)
            continue
        for job_id, state in found.items():
            address = job_id if cluster is None else f"{job_id}@{cluster}"
            states[address] = dataclasses.replace(state, job_id=address)
    if len(refusals) == len(groups) and refusals:
        raise refusals[0]
    return states


def _job_states(wanted: list[str], timeout_s: float, run: Run) -> dict[str, JobState]:
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


def earlier_starts(job_id: str, *, run: Run = run_command) -> list[EndedStart]:
    """Return the starts of a job that are over, oldest first; [] where there is no accounting."""
    words = ["sacct", "--noheader", "--parsable2", "--allocations", "--duplicates", f"--jobs={job_id}"]
    answer = run([*words, f"--format={SACCT_FORMAT}"], QUERY_TIMEOUT_S)
    return parse_earlier_starts(answer.stdout) if answer.returncode == 0 else []


def nodes_down(nodes: Iterable[str], *, run: Run = run_command) -> list[str]:
    """Those of `nodes` that are down or do not answer.

    Raises:
        ClusterError: sinfo gave no answer, or does not know a node.
    """
    words = ["sinfo", "--noheader", "--Node", f"--nodes={','.join(sorted(nodes))}", "--format=%N|%T"]
    return parse_nodes_down(_ask(words, QUERY_TIMEOUT_S, run))


def exclude_nodes(job_id: str, nodes: Sequence[str], *, run: Run = run_command) -> None:
    """Keep a job that waits in the queue away from `nodes`.

    Raises:
        ClusterError: Slurm refuses.
    """
    _ask(["scontrol", "update", f"JobId={job_id}", f"ExcNodeList={','.join(nodes)}"], CHANGE_TIMEOUT_S, run)


def batch_job(job_id: str, *, run: Run = run_command) -> BatchJob:
    """Return what a job was submitted with.

    Raises:
        ClusterError: Slurm does not know the job, or it is somebody else's.
    """
    script = _ask(["scontrol", "write", "batch_script", job_id, "-"], QUERY_TIMEOUT_S, run)
    shown = _ask(["scontrol", "show", "job", job_id], QUERY_TIMEOUT_S, run)
    line = "" if re.search(r"^\s*SubmitLine=", shown, re.MULTILINE) else _accounted_submit_line(job_id, run)
    return parse_batch_job(script, shown, line)


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


def _accounted_submit_line(job_id: str, run: Run) -> str:
    """Return sbatch's command line as sacct knows it; "" where it does not.

    A busy controller tells the database of a new job some seconds late.
    """
    words = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job_id}", "--format=SubmitLine"]
    give_up_s = time.monotonic() + ACCOUNTING_LAG_S
    while True:
        try:
            told = run(words, QUERY_TIMEOUT_S)
        except SchedulerUnavailable:
            return ""
        if told.stdout or told.returncode != 0 or time.monotonic() >= give_up_s:
            return told.stdout if told.returncode == 0 else ""
        time.sleep(ACCOUNTING_POLL_S)


def _by_cluster(job_ids: Iterable[str]) -> dict[str | None, list[str]]:
    """Return the ids of `job_ids` by cluster, each once."""
    groups: dict[str | None, list[str]] = {}
    for job_id in dict.fromkeys(job_ids):
        number, _, cluster = job_id.partition("@")
        groups.setdefault(cluster or None, []).append(number)
    return groups


def _ask_squeue(job_ids: Sequence[str], timeout_s: float, run: Run) -> dict[str, JobState]:
    words = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(job_ids)}"]
    answer = run([*words, f"--Format={SQUEUE_FORMAT}"], timeout_s)
    if answer.returncode != 0:
        if "Invalid job id specified" in answer.stderr:  # said when a single job is asked for and forgotten
            return {}
        raise _refusal("squeue", answer)
    return parse_squeue(answer.stdout)


def _ask_sacct(job_ids: Sequence[str], timeout_s: float, run: Run) -> tuple[dict[str, JobState], bool]:
    """(what accounting knows, whether it gave no answer). Sites without accounting have no working sacct."""
    words = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(job_ids)}"]
    try:
        answer = run([*words, f"--format={SACCT_FORMAT}"], timeout_s)
    except SchedulerUnavailable:
        return {}, True
    return (parse_sacct(answer.stdout), False) if answer.returncode == 0 else ({}, True)


def _is_covered(job_id: str, found: Iterable[str]) -> bool:
    """Whether `found` has the job, or tasks of the array that it names."""
    return any(other == job_id or other.startswith(f"{job_id}_") for other in found)


def _ask(words: Sequence[str], timeout_s: float, run: Run) -> str:
    answer = run(words, timeout_s)
    if answer.returncode != 0:
        raise _refusal(words[0], answer)
    return answer.stdout


def _refusal(command: str, answer: Finished) -> ClusterError:
    said = complaint(answer.stderr or answer.stdout) or f"it ended with {answer.returncode} and said nothing"
    if _NO_ANSWER.search(said):
        return SchedulerUnavailable(
            f"{command}: {said}", hint="try again when the controller is back; see scontrol ping"
        )
    return ClusterError(f"{command}: {said}")
