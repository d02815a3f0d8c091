"""A probe: a copy of a run that trains for two minutes in a directory of its own, and is removed.

Its journal is what a plan learns from where no run was measured. It asks for the nodes of the run, with a short limit.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from hpc_yolo.cluster.jobs import JobWatch, alive_jobs, current_jobs, stop_jobs
from hpc_yolo.cluster.pending_reasons import reason_text
from hpc_yolo.cluster.process import current_environment
from hpc_yolo.core.errors import HpcYoloError, SchedulerUnavailable, TrainingError
from hpc_yolo.core.units import format_time, parse_limit_s
from hpc_yolo.launch.plan import Plan
from hpc_yolo.launch.submit import submit
from hpc_yolo.runs.directory import RunDirectory, require_writable
from hpc_yolo.runs.events import AttemptEnded, AttemptStarted
from hpc_yolo.runs.failures import first_failure
from hpc_yolo.runs.index import remove_from_index, state_directory
from hpc_yolo.runs.journal import JournalReader
from hpc_yolo.spec.schema import Spec

NAME = "probe"
TRAINING_S = 120.0
LIMIT_S = 900  # of its job: the start included
END_WAIT_S = 120.0
POLL_S = 0.5
NOT_IN_A_PROBE = frozenset({"mail-type", "mail-user", "hold", "begin", "dependency", "deadline", "reservation"})


@contextlib.contextmanager
def directory_beside(spec: Spec) -> Iterator[Path]:
    """Make a directory for a probe in the output directory of `spec`, which all nodes see, and remove it afterwards.

    Raises:
        RunError: the output directory is not writable.
    """
    output = Path(spec.output).absolute()
    require_writable(output)
    output.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f".{NAME}-", dir=output))
    try:
        yield directory
    finally:
        remove_from_index(state_directory(current_environment()), RunDirectory(directory / NAME))
        shutil.rmtree(directory, ignore_errors=True)


def probe_spec(spec: Spec, directory: Path) -> Spec:
    """Return the spec of a probe of `spec` in `directory`: the same training and nodes, without anything after it."""
    cluster = spec.cluster
    wanted_s = None if cluster.time is None else parse_limit_s(cluster.time)
    return Spec(
        name=NAME,
        model=spec.model,
        data=spec.data,
        weights=spec.weights,
        output=str(directory),
        site=spec.site,
        cluster=msgspec.structs.replace(
            cluster,
            time=format_time(LIMIT_S if wanted_s is None else min(LIMIT_S, wanted_s)),
            requeue="off",
            signal_before_s="auto",  # that of the spec may be longer than this limit
            sbatch={name: value for name, value in cluster.sbatch.items() if name not in NOT_IN_A_PROBE},
        ),
        train=spec.train,
        checkpoint=spec.checkpoint,
    )


def run_probe(plan: Plan, say: Callable[[str], None]) -> RunDirectory:
    """Train the probe `plan` until it has trained for `TRAINING_S` seconds, or is finished; return its run.

    Args:
        plan: of `probe_spec`.
        say: gets a sentence when something changes.

    Raises:
        TrainingError: it ended before its training began; the message has the error of the first rank that failed.
        KeyboardInterrupt: the user stopped it; its job is ended.
        ClusterError: Slurm refuses the job, or does not answer.
    """
    submission = submit(plan)
    kind = "Slurm job" if plan.uses_slurm else "local job"
    say(f"{NAME}: {kind} {submission.job_id}, which trains for {TRAINING_S:.0f} s and is removed; Ctrl-C ends it")
    try:
        _wait(plan.run, say)
    finally:
        _stop(plan.run)
    return plan.run


def _wait(run: RunDirectory, say: Callable[[str], None]) -> None:
    """Return when the training has lasted long enough, or has ended."""
    reader, watch = JournalReader(run.journal), JobWatch(run, owned=True)
    began: float | None = None
    said = ""
    while True:
        is_alive = watch.is_alive()
        for event in reader.new_events():
            if isinstance(event, AttemptStarted):
                began = time.monotonic()
            if isinstance(event, AttemptEnded) and event.outcome != AttemptEnded.FINISHED:
                raise _failure(run, event.detail)
            is_alive &= not isinstance(event, AttemptEnded)
        if not is_alive and began is None:
            raise _failure(run, "its job ended before the training began")
        if not is_alive or (began is not None and time.monotonic() - began >= TRAINING_S):
            return
        state = "training" if began is not None else _waiting(run)
        if state != said:
            say(f"{NAME}: {state}")
            said = state
        time.sleep(POLL_S)


def _waiting(run: RunDirectory) -> str:
    """Return what a probe that does not train yet does."""
    with contextlib.suppress(HpcYoloError):
        for job in current_jobs(run):
            if job.uses_slurm and (state := job.state()).is_waiting:
                return f"waits: {reason_text(state.reason) or 'in the queue'}"
    return "starts"


def _failure(run: RunDirectory, otherwise: str) -> TrainingError:
    failure = first_failure(run)
    return TrainingError(f"the probe failed: {otherwise if failure is None else failure.text}")


def _stop(run: RunDirectory) -> None:
    """End the job of the probe and wait for its end, so that nothing writes into its directory any more."""
    deadline = time.monotonic() + END_WAIT_S
    with contextlib.suppress(HpcYoloError):
        stop_jobs(alive_jobs(current_jobs(run)))
    while time.monotonic() < deadline:
        try:
            if not alive_jobs(current_jobs(run)):
                return
        except SchedulerUnavailable:
            pass
        time.sleep(POLL_S)
