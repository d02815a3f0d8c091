"""Queries and changes of Slurm jobs: one function for each. No other module has Slurm's command lines.

`slurm_command` runs a command line, `slurm_output` parses what it prints.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from hpc_yolo.cluster.batch_job import BatchJob, parse_batch_job
from hpc_yolo.cluster.slurm_command import Run, command_error, on_cluster, output_of, run_command
from hpc_yolo.cluster.slurm_output import (
    SACCT_FORMAT,
    SQUEUE_FORMAT,
    STEP_FORMAT,
    UNKNOWN,
    JobAttempt,
    JobRecord,
    JobState,
    SchedulerProbe,
    StartEstimate,
    StepUsage,
    parse_comments,
    parse_earlier_attempts,
    parse_job_record,
    parse_nodes_down,
    parse_ping,
    parse_sacct,
    parse_squeue,
    parse_step_usage,
    parse_submitted,
    parse_test_only,
)
from hpc_yolo.core.errors import ClusterError, SchedulerUnavailable

QUERY_TIMEOUT_S = 10.0
PROMPT_TIMEOUT_S = 2.4  # for commands that a person waits for and that can do without Slurm
CHANGE_TIMEOUT_S = 30.0
SUBMIT_TIMEOUT_S = 120.0  # sbatch itself retries while the controller is too busy to accept a job
ACCOUNTING_LAG_S, ACCOUNTING_POLL_S = 15.0, 0.5
_SACCT = ("sacct", "--noheader", "--parsable2")


def probe(timeout_s: float = 3.0, *, run: Run = run_command) -> SchedulerProbe:
    """Check that jobs can be queued here: sbatch is installed and a controller is up."""
    if run is run_command and not is_installed():
        return SchedulerProbe(False, "sbatch is not installed here")
    try:
        reply = run(["scontrol", "ping"], timeout_s)
    except SchedulerUnavailable as error:
        return SchedulerProbe(False, f"no Slurm controller answers ({error.message})")
    return parse_ping(reply.stdout, reply.stderr)


def is_installed() -> bool:
    """Return whether this machine has Slurm's commands."""
    return shutil.which("sbatch") is not None


def require_available(timeout_s: float = QUERY_TIMEOUT_S, *, run: Run = run_command) -> None:
    """Check that jobs can be queued here.

    Raises:
        SchedulerUnavailable: sbatch is not installed, or no controller answers within `timeout_s`.
    """
    if not (found := probe(timeout_s, run=run)).available:
        raise SchedulerUnavailable(
            f"the run needs Slurm, but {found.reason}",
            hint="try again when Slurm answers (scontrol ping), or train on this machine with --local",
        )


def submit_script(
    path: Path, options: Sequence[str] = (), arguments: Sequence[str] = (), *, run: Run = run_command
) -> str:
    """Queue the script at `path`, with sbatch's `options` and `arguments` for the script; return the job id.

    Raises:
        ClusterError: Slurm refuses; the message is Slurm's.
        SchedulerUnavailable: no answer, or one without a job id; whether the job was queued is not known.
    """
    reply = output_of(["sbatch", "--parsable", *options, str(path), *arguments], SUBMIT_TIMEOUT_S, run)
    if (job_id := parse_submitted(reply)) is None:
        raise SchedulerUnavailable(f"sbatch printed no job id: {reply.strip()[:200] or 'nothing'}")
    return job_id


def jobs_by_comment(prefix: str, timeout_s: float = QUERY_TIMEOUT_S, *, run: Run = run_command) -> dict[str, str]:
    """Return the ids of this user's queued jobs by the last word of their comment, where it begins with `prefix`.

    Raises:
        SchedulerUnavailable: no answer.
    """
    arguments = ["squeue", "--me", "--noheader", "--states=all", "--format=%i|%k"]
    return parse_comments(output_of(arguments, timeout_s, run), prefix)


def estimate_start(
    script: str, options: Sequence[str] = (), *, timeout_s: float = CHANGE_TIMEOUT_S, run: Run = run_command
) -> StartEstimate:
    """Return when and where Slurm would start `script` with the `options` of sbatch; nothing is queued.

    Args:
        script: the text of a batch script.
        options: of sbatch's command line.
        timeout_s: how long to wait for Slurm.
        run: runs sbatch.

    Raises:
        ClusterError: the job could never start; the message is Slurm's. Or Slurm does not answer.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sbatch", encoding="utf-8") as file:
        file.write(script)
        file.flush()
        done = run(["sbatch", "--test-only", *options, file.name], timeout_s)
    if done.returncode != 0:
        raise command_error("sbatch", done)
    return parse_test_only(done.stderr)


def cancel(job_ids: Iterable[str], *, only_waiting: bool = False, run: Run = run_command) -> None:
    """Cancel the jobs; `7@far` is job 7 of the cluster far. A job that has ended is not an error.

    Args:
        only_waiting: leave those that have started.

    Raises:
        ClusterError: Slurm refuses, for instance because the job belongs to another user.
    """
    selection = ["--state=PENDING"] if only_waiting else []
    for cluster, ids in _by_cluster(job_ids).items():
        output_of(["scancel", "--quiet", *selection, *ids], CHANGE_TIMEOUT_S, on_cluster(cluster, run))


def requeue(job_id: str, *, run: Run = run_command) -> None:
    """Put a running job back into the queue. Its tasks get SIGTERM at once: write all files first.

    Args:
        job_id: `7`, or `7@far` on another cluster.
        run: runs the command.

    Raises:
        ClusterError: Slurm refuses, for instance because the job was submitted with --no-requeue.
    """
    number, _, cluster = job_id.partition("@")
    done = on_cluster(cluster or None, run)(["scontrol", "requeue", number], CHANGE_TIMEOUT_S)
    # Slurm ends the tasks of a requeued job at once, and the scontrol of one of them with it.
    if done.returncode not in (0, -signal.SIGTERM, -signal.SIGKILL):
        raise command_error("scontrol", done)


def set_requeue(job_id: str, *, allowed: bool, run: Run = run_command) -> None:
    """Set whether Slurm may requeue a job.

    Raises:
        ClusterError: Slurm refuses.
    """
    _update(job_id, f"Requeue={int(allowed)}", run)


def exclude_nodes(job_id: str, nodes: Sequence[str], *, run: Run = run_command) -> None:
    """Exclude `nodes` for a job that waits in the queue.

    Raises:
        ClusterError: Slurm refuses.
    """
    _update(job_id, f"ExcNodeList={','.join(nodes)}", run)


def set_dependency(job_id: str, dependency: str, *, run: Run = run_command) -> None:
    """Replace what a job that waits in the queue depends on, such as afterany:7:8.

    Raises:
        ClusterError: Slurm refuses, for instance because the job has started.
    """
    number, _, cluster = job_id.partition("@")
    _update(number, f"Dependency={dependency}", on_cluster(cluster or None, run))


def step_usage(job_id: str, *, run: Run = run_command) -> StepUsage:
    """Return what accounting has recorded of the steps of a job's last attempt.

    Raises:
        ClusterError: no accounting, or no answer.
    """
    return parse_step_usage(output_of([*_SACCT, f"--jobs={job_id}", f"--format={STEP_FORMAT}"], QUERY_TIMEOUT_S, run))


def job_states(
    job_ids: Iterable[str], timeout_s: float = 2 * QUERY_TIMEOUT_S, *, run: Run = run_command
) -> dict[str, JobState]:
    """Return the state of every job in `job_ids`: one call of squeue and, for jobs that it has forgotten, one of sacct.

    A job of another cluster is named `7@far` in arguments and result; each cluster is queried separately. One that
    does not answer leaves its jobs out, unless none answers. An array's id yields the states of all its tasks, each
    under its own id. Where sacct is missing or has no database, forgotten jobs are UNKNOWN and stale; a job that is
    alive according to accounting, but not to squeue, is UNKNOWN.

    Args:
        job_ids: jobs, arrays, or tasks of arrays.
        timeout_s: for both commands; sacct gets at most half of it.
        run: runs the commands.

    Raises:
        SchedulerUnavailable: squeue gave no answer.
        ClusterError: a text that is not a job id.
    """
    groups = _by_cluster(job_ids)
    states: dict[str, JobState] = {}
    errors: list[ClusterError] = []
    for cluster, ids in groups.items():
        try:
            found = _states_on_cluster(ids, timeout_s / len(groups), on_cluster(cluster, run))
        except ClusterError as error:
            errors.append(error)
            continue
        for job_id, state in found.items():
            address = job_id if cluster is None else f"{job_id}@{cluster}"
            states[address] = dataclasses.replace(state, job_id=address)
    if len(errors) == len(groups) and errors:
        raise errors[0]
    return states


def job_record(job_id: str, *, run: Run = run_command) -> JobRecord:
    """Return the controller's record of a job.

    Raises:
        ClusterError: the job is unknown, or the controller does not answer.
    """
    return parse_job_record(output_of(["scontrol", "--oneliner", "show", "job", job_id], QUERY_TIMEOUT_S, run))


def earlier_attempts(job_id: str, *, run: Run = run_command) -> list[JobAttempt]:
    """Return the attempts of a job that have ended, oldest first; [] where there is no accounting."""
    arguments = [*_SACCT, "--allocations", "--duplicates", f"--jobs={job_id}", f"--format={SACCT_FORMAT}"]
    done = run(arguments, QUERY_TIMEOUT_S)
    return parse_earlier_attempts(done.stdout) if done.returncode == 0 else []


def nodes_down(nodes: Iterable[str], *, run: Run = run_command) -> list[str]:
    """Return those of `nodes` that are down or do not answer.

    Raises:
        ClusterError: sinfo gave no answer, or does not know a node.
    """
    arguments = ["sinfo", "--noheader", "--Node", f"--nodes={','.join(sorted(nodes))}", "--format=%N|%T"]
    return parse_nodes_down(output_of(arguments, QUERY_TIMEOUT_S, run))


def batch_job(job_id: str, *, run: Run = run_command) -> BatchJob:
    """Return script, options and arguments of a job.

    Raises:
        ClusterError: the job is unknown, or belongs to another user.
    """
    script = output_of(["scontrol", "write", "batch_script", job_id, "-"], QUERY_TIMEOUT_S, run)
    shown = output_of(["scontrol", "show", "job", job_id], QUERY_TIMEOUT_S, run)
    line = "" if re.search(r"^\s*SubmitLine=", shown, re.MULTILINE) else _accounted_submit_line(job_id, run)
    return parse_batch_job(script, shown, line)


def show(entity: str, timeout_s: float, *, run: Run = run_command) -> str:
    """Return what `scontrol show` prints of `entity`, config or partition; `cluster.site` parses it.

    Raises:
        SchedulerUnavailable: no answer within `timeout_s`.
    """
    return output_of(["scontrol", "--all", "--oneliner", "show", entity], timeout_s, run)


def show_qos(timeout_s: float, *, run: Run = run_command) -> str:
    """Return a line for every quality of service: name | grace time | preempt mode. `cluster.site` parses them.

    Raises:
        ClusterError: no accounting, or no answer within `timeout_s`.
    """
    arguments = ["sacctmgr", "--noheader", "--parsable2", "--readonly", "show", "qos"]
    return output_of([*arguments, "format=Name,GraceTime,PreemptMode"], timeout_s, run)


def show_accounts(user: str, timeout_s: float, *, run: Run = run_command) -> list[str]:
    """Return the accounts that `user` may charge, each once.

    Raises:
        ClusterError: no accounting, or no answer within `timeout_s`.
    """
    arguments = ["sacctmgr", "--noheader", "--parsable2", "--readonly", "show", "associations", f"user={user}"]
    lines = output_of([*arguments, "format=Account"], timeout_s, run).splitlines()
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def show_user_qos(user: str, timeout_s: float, *, run: Run = run_command) -> list[str]:
    """Return the qualities of service that `user` may request, each once.

    Raises:
        ClusterError: no accounting, or no answer within `timeout_s`.
    """
    arguments = ["sacctmgr", "--noheader", "--parsable2", "--readonly", "show", "associations", f"user={user}"]
    names = output_of([*arguments, "format=QOS"], timeout_s, run).replace("\n", ",").split(",")
    return list(dict.fromkeys(name.strip() for name in names if name.strip()))


def show_node_types(timeout_s: float, *, run: Run = run_command) -> str:
    """Return a line for each kind of node in each partition; `node_types.parse_node_types` parses them.

    Raises:
        SchedulerUnavailable: no answer within `timeout_s`.
    """
    return output_of(["sinfo", "--noheader", "--format=%R|%G|%c|%m|%l|%f"], timeout_s, run)


def _update(job_id: str, setting: str, run: Run) -> None:
    output_of(["scontrol", "update", f"JobId={job_id}", setting], CHANGE_TIMEOUT_S, run)


def _accounted_submit_line(job_id: str, run: Run) -> str:
    """Return sbatch's command line from accounting; "" where that does not have it.

    A busy controller reports a new job to the database some seconds late.
    """
    arguments = [*_SACCT, "--allocations", f"--jobs={job_id}", "--format=SubmitLine"]
    deadline = time.monotonic() + ACCOUNTING_LAG_S
    while True:
        try:
            done = run(arguments, QUERY_TIMEOUT_S)
        except SchedulerUnavailable:
            return ""
        if done.stdout or done.returncode != 0 or time.monotonic() >= deadline:
            return done.stdout if done.returncode == 0 else ""
        time.sleep(ACCOUNTING_POLL_S)


def _by_cluster(job_ids: Iterable[str]) -> dict[str | None, list[str]]:
    """Return the ids of `job_ids` by cluster, each once."""
    groups: dict[str | None, list[str]] = {}
    for job_id in dict.fromkeys(job_ids):
        number, _, cluster = job_id.partition("@")
        groups.setdefault(cluster or None, []).append(number)
    return groups


def _states_on_cluster(wanted: list[str], timeout_s: float, run: Run) -> dict[str, JobState]:
    found = _query_squeue(wanted, timeout_s / 2, run)
    forgotten = [job_id for job_id in wanted if not _is_covered(job_id, found)]
    if not forgotten:
        return found
    accounted, is_stale = _query_sacct(forgotten, timeout_s / 2, run)
    over = {job_id: job for job_id, job in accounted.items() if not job.is_alive}
    lost = [job_id for job_id in forgotten if not _is_covered(job_id, over)]
    return found | over | {job_id: JobState(job_id, UNKNOWN, is_stale=is_stale) for job_id in lost}


def _query_squeue(job_ids: Sequence[str], timeout_s: float, run: Run) -> dict[str, JobState]:
    arguments = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(job_ids)}"]
    done = run([*arguments, f"--Format={SQUEUE_FORMAT}"], timeout_s)
    if done.returncode != 0:
        if "Invalid job id specified" in done.stderr:  # printed where the only job of a query is forgotten
            return {}
        raise command_error("squeue", done)
    return parse_squeue(done.stdout)


def _query_sacct(job_ids: Sequence[str], timeout_s: float, run: Run) -> tuple[dict[str, JobState], bool]:
    """Return (states by job id, whether there was no answer). sacct fails on sites without accounting."""
    arguments = [*_SACCT, "--allocations", f"--jobs={','.join(job_ids)}", f"--format={SACCT_FORMAT}"]
    try:
        done = run(arguments, timeout_s)
    except SchedulerUnavailable:
        return {}, True
    return (parse_sacct(done.stdout), False) if done.returncode == 0 else ({}, True)


def _is_covered(job_id: str, found: Iterable[str]) -> bool:
    """Return whether `found` has the job, or tasks of the array `job_id`."""
    return any(other == job_id or other.startswith(f"{job_id}_") for other in found)
