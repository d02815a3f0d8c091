"""Queue a batch script so that its job is found again where sbatch's answer was lost.

A slow controller may queue a job after sbatch has given up. So a record is written before sbatch runs, with a token
that stands in the job's comment; whoever asks about the run's jobs later looks for it (`adopt_lost_jobs`).
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
from hpc_yolo.cluster.slurm_command import Run, run_command
from hpc_yolo.core.errors import ClusterError, SchedulerUnavailable
from hpc_yolo.core.files import read_struct, write_struct
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import Submission, add_submission

TOKEN_PREFIX = "hpc-yolo:"
KEEP_S = 3600.0  # how long a job that nobody has seen may still come out of a controller's backlog
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
    """Queue `script` as a job of `run` and record it.

    Args:
        planned: the record; its `job_id` is what follows the number that sbatch gives: "", or "_3" in an array.
        options, arguments: of sbatch, and of the script.

    Raises:
        ClusterError: Slurm refuses.
        SchedulerUnavailable: no answer; the job may be queued all the same, and the next submission looks for it.
        KeyboardInterrupt: a person has stopped it; a job that was queued by then is cancelled.
    """
    token = TOKEN_PREFIX + secrets.token_hex(6)
    record = _record(run, token)
    write_struct(record, planned)
    words = _with_token(options, script, token)
    try:
        job_id = scheduler.submit_script(script, words, arguments, run=sbatch)
    except SchedulerUnavailable as error:
        if (found := adopt_lost_jobs(run)) is not None:
            return found
        raise SchedulerUnavailable(
            f"{error.message}; the job may be queued all the same",
            hint=f"submit again when Slurm answers: a job that was queued is found by its comment, {token}",
        ) from None
    except ClusterError:
        record.unlink()
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_take_back(run, token, planned.cluster)) from None
    return _settle(run, record, planned, job_id)


def adopt_lost_jobs(run: RunDirectory) -> Submission | None:
    """Look for jobs of `run` whose ids sbatch could not report, and record those that are there; the newest.

    Returns None where there is none, or where Slurm does not say.
    """
    adopted = None
    job_ids: dict[str | None, dict[str, str]] = {}  # by cluster
    with contextlib.suppress(ClusterError):
        for record in sorted(run.jobs.glob(f"{TOKEN_PREFIX}*.json"), key=lambda path: path.stat().st_mtime):
            planned = read_struct(record, Submission)
            cluster = None if planned is None else planned.cluster
            if cluster not in job_ids:
                job_ids[cluster] = scheduler.jobs_by_comment(TOKEN_PREFIX, run=slurm_command.on_cluster(cluster))
            if planned is not None and (job_id := job_ids[cluster].get(record.stem)) is not None:
                adopted = _settle(run, record, planned, job_id)
            elif planned is None or time.time() - planned.time > KEEP_S:
                record.unlink(missing_ok=True)
    return adopted


def _settle(run: RunDirectory, record: Path, planned: Submission, job_id: str) -> Submission:
    """Record that `planned` became job `job_id`."""
    submission = msgspec.structs.replace(planned, job_id=job_id + planned.job_id)
    add_submission(run, submission)
    record.unlink(missing_ok=True)
    return submission


def _take_back(run: RunDirectory, token: str, cluster: str | None) -> str:
    """Cancel the job with `token` on `cluster`, if there is one; a sentence about it."""
    there = slurm_command.on_cluster(cluster)
    with contextlib.suppress(ClusterError):
        job_id = scheduler.jobs_by_comment(TOKEN_PREFIX, scheduler.PROMPT_TIMEOUT_S, run=there).get(token)
        if job_id is None:  # the record stays: it may come yet
            return "nothing is queued so far"
        scheduler.cancel([job_id], run=there)
        _record(run, token).unlink(missing_ok=True)
        return f"job {job_id}, which was queued already, is cancelled"
    return f"the job may be queued; hpc-yolo cancel {run.path} looks for it"


def _record(run: RunDirectory, token: str) -> Path:
    return run.jobs / f"{token}.json"


def _with_token(options: Sequence[str], script: Path, token: str) -> list[str]:
    """`options`, with `token` at the end of the comment that they or the script ask for."""
    typed = [option.removeprefix("--comment=") for option in options if option.startswith("--comment=")]
    if not typed and (line := _COMMENT.search(script.read_text(errors="replace"))):
        with contextlib.suppress(ValueError):  # a quote that is not closed, which sbatch refuses itself
            typed = [" ".join(shlex.split(line["value"]))]
    words = [word for word in " ".join(typed).split(" ") if word and not word.startswith(TOKEN_PREFIX)]
    others = [option for option in options if not option.startswith("--comment=")]
    return [*others, f"--comment={' '.join([*words, token])}"]
