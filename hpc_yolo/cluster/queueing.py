"""Queue a batch script so that its job can be found even if sbatch's reply was lost.

A slow controller may queue a job after sbatch has timed out. Therefore a record is written before sbatch runs, with a
token that becomes part of the job's comment; later commands on the run search for it (`adopt_lost_jobs`).
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hpc_yolo.cluster import scheduler, slurm_command
from hpc_yolo.cluster.jobs import alive_jobs, current_jobs
from hpc_yolo.cluster.slurm_command import Run, run_command
from hpc_yolo.cluster.this_site import own_cluster
from hpc_yolo.core.errors import ClusterError, RunError, SchedulerUnavailable
from hpc_yolo.core.files import read_struct, write_struct
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import Submission, add_submission

TOKEN_PREFIX = "hpc-yolo:"
KEEP_S = 3600.0  # for which a job may still emerge from the controller's backlog
_COMMENT = re.compile(r"^#SBATCH\s+--comment[= ](?P<value>.*)$", re.MULTILINE)


def queue_script(
    run: RunDirectory,
    script: Path,
    planned: Submission,
    *,
    options: Sequence[str] = (),
    arguments: Sequence[str] = (),
    sbatch: Run = run_command,
) -> Submission:
    """Queue `script` as a job of `run` and return the record of it.

    Args:
        run: the run that the job trains.
        script: the batch script.
        planned: the record; its `job_id` is appended to the number that sbatch prints: "", or "_3" in an array.
        options: of sbatch.
        arguments: of the script.
        sbatch: runs sbatch.

    Raises:
        ClusterError: Slurm refuses.
        SchedulerUnavailable: no answer; the job may be queued anyway, and the next submission searches for it.
        KeyboardInterrupt: the user has interrupted it; a job that was queued by then is cancelled.
    """
    token = TOKEN_PREFIX + secrets.token_hex(6)
    record = _record(run, token)
    write_struct(record, planned)
    sbatch_options = _with_token(options, script, token)
    try:
        job_id = scheduler.submit_script(script, sbatch_options, arguments, run=sbatch)
    except SchedulerUnavailable as error:
        if (found := adopt_lost_jobs(run).get(token)) is not None:
            return found
        raise SchedulerUnavailable(
            f"{error.message}; the job may be queued anyway",
            hint=f"submit again when Slurm answers: a queued job is found by its comment, {token}",
        ) from None
    except ClusterError:
        record.unlink()
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_take_back(run, token, planned.cluster)) from None
    return _settle(run, record, planned, job_id)


def adopt_lost_jobs(run: RunDirectory) -> dict[str, Submission]:
    """Search for jobs of `run` whose ids sbatch could not report, and record those that exist.

    Returns:
        Those that were found, by token, oldest first; {} also where Slurm does not answer.
    """
    adopted: dict[str, Submission] = {}
    job_ids: dict[str | None, dict[str, str]] = {}  # by cluster
    with contextlib.suppress(ClusterError):
        for record in sorted(run.jobs.glob(f"{TOKEN_PREFIX}*.json"), key=lambda path: path.stat().st_mtime):
            planned = read_struct(record, Submission)
            cluster = None if planned is None else planned.cluster
            if cluster not in job_ids:
                job_ids[cluster] = scheduler.jobs_by_comment(TOKEN_PREFIX, run=slurm_command.on_cluster(cluster))
            if planned is not None and (job_id := job_ids[cluster].get(record.stem)) is not None:
                adopted[record.stem] = _settle(run, record, planned, job_id)
            elif planned is None or time.time() - planned.time > KEEP_S:
                record.unlink(missing_ok=True)
    return adopted


def unconfirmed(run: RunDirectory) -> list[Submission]:
    """Return the records of jobs of `run` whose ids sbatch has not reported, the newest first."""
    records = sorted(run.jobs.glob(f"{TOKEN_PREFIX}*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [planned for record in records if (planned := read_struct(record, Submission)) is not None]


def _settle(run: RunDirectory, record: Path, planned: Submission, job_id: str) -> Submission:
    """Record `planned` as job `job_id`."""
    submission = msgspec.structs.replace(planned, job_id=job_id + planned.job_id, home=own_cluster())
    add_submission(run, submission)
    record.unlink(missing_ok=True)
    return submission


def _take_back(run: RunDirectory, token: str, cluster: str | None) -> str:
    """Cancel the job with `token` on `cluster`, if there is one, and return a message about it."""
    there = slurm_command.on_cluster(cluster)
    with contextlib.suppress(ClusterError):
        job_id = scheduler.jobs_by_comment(TOKEN_PREFIX, scheduler.PROMPT_TIMEOUT_S, run=there).get(token)
        if job_id is None:  # the record is kept, since the job may be queued later
            return "nothing is queued so far"
        scheduler.cancel([job_id], run=there)
        _record(run, token).unlink(missing_ok=True)
        return f"cancelled job {job_id}, which was already queued"
    return f"the job may be queued; hpc-yolo cancel {run.word} searches for it"


def _record(run: RunDirectory, token: str) -> Path:
    return run.jobs / f"{token}.json"


def _with_token(options: Sequence[str], script: Path, token: str) -> list[str]:
    """Return `options` with `token` appended to the comment that they or the script set."""
    comments = [option.removeprefix("--comment=") for option in options if option.startswith("--comment=")]
    if not comments and (line := _COMMENT.search(script.read_text(errors="replace"))):
        with contextlib.suppress(ValueError):  # an unclosed quote; sbatch refuses it
            comments = [" ".join(shlex.split(line["value"]))]
    kept = [word for word in " ".join(comments).split(" ") if word and not word.startswith(TOKEN_PREFIX)]
    others = [option for option in options if not option.startswith("--comment=")]
    return [*others, f"--comment={' '.join([*kept, token])}"]


def require_not_active(run: RunDirectory, *, slurm_answers: bool) -> None:
    """Check that no job of `run` is queued or running, as far as that can be determined.

    Raises:
        RunError: a job is queued or running.
    """
    if slurm_answers:
        adopt_lost_jobs(run)
    jobs = [job for job in current_jobs(run) if slurm_answers or not job.uses_slurm]
    try:
        alive = alive_jobs(jobs, scheduler.PROMPT_TIMEOUT_S)
    except SchedulerUnavailable:
        return
    if alive:
        raise RunError(
            f"{run.name} is already queued or running, as {alive[-1].name}",
            hint=f"watch it with hpc-yolo follow {run.word}, or give the new run another --name",
        )
