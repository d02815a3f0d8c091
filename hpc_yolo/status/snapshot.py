"""Plain facts about runs, joined from their journals and one answer of Slurm. Nothing is drawn here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from hpc_yolo.cluster.local import local_job_is_alive
from hpc_yolo.cluster.scheduler import JobState
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, AttemptEnded, AttemptStarted, EpochEnded, Evaluated, StepLogged
from hpc_yolo.runs.failures import first_failure
from hpc_yolo.runs.journal import read_events
from hpc_yolo.runs.submissions import Submission, last_chain


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One run as it stands. `state`: queued, running, requeued, stopped, failed, done, lost (ended without a word)."""

    name: str
    path: str
    state: str
    detail: str = ""
    executor: str | None = None
    job_id: str | None = None
    num_nodes: int = 0
    tasks_per_node: int = 0
    gpus_per_node: int = 0
    attempts: int = 0
    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    total_steps: int | None = None
    box: float | None = None
    obj: float | None = None
    cls: float | None = None
    images_per_s: float | None = None
    map50: float | None = None
    map50_95: float | None = None
    best_epoch: int | None = None
    updated: float | None = None

    @property
    def loss(self) -> float | None:
        """Sum of the three terms."""
        if self.box is None or self.obj is None or self.cls is None:
            return None
        return self.box + self.obj + self.cls


def take_snapshot(runs: Iterable[RunDirectory], job_states: Mapping[str, JobState]) -> list[RunFacts]:
    """Facts about `runs`. `job_states` holds what Slurm says of their jobs, as far as it answers."""
    return [run_facts(run, job_states) for run in runs]


def slurm_job_ids(runs: Iterable[RunDirectory]) -> list[str]:
    """The latest Slurm job of every run that has one, and the one that it follows."""
    submissions = [submission for run in runs for submission in last_chain(run)[-2:]]
    return [submission.job_id for submission in submissions if submission.executor == "slurm"]


def run_facts(run: RunDirectory, job_states: Mapping[str, JobState]) -> RunFacts:
    """Facts about one run."""
    events = read_events(run.journal)
    started = _last(events, AttemptStarted)
    submission = _current_submission(run, started, job_states)
    progress = _last(events, (StepLogged, EpochEnded))
    evaluations = [event for event in events if isinstance(event, Evaluated)]
    best = next((event for event in reversed(evaluations) if event.is_best), None)
    state, detail = _state(run, submission, events, job_states)
    figures: dict[str, Any] = {}
    if started is not None:
        figures |= {
            "attempts": started.attempt,
            "epochs": started.epochs,
            "total_steps": started.epochs * started.steps_per_epoch,
            "num_nodes": started.num_nodes,
            "tasks_per_node": started.world_size // started.num_nodes,
            "job_id": started.job_id,
            "epoch": started.epoch,
            "step": started.step,
        }
    if progress is not None:
        figures |= {name: getattr(progress, name) for name in ("epoch", "step", "box", "obj", "cls", "images_per_s")}
    if best is not None:
        figures |= {"map50": best.map50, "map50_95": best.map50_95, "best_epoch": best.epoch}
    if submission is not None:
        names = ("executor", "job_id", "num_nodes", "tasks_per_node", "gpus_per_node")
        figures |= {name: getattr(submission, name) for name in names}
    updated = events[-1].time if events else submission.time if submission is not None else None
    return RunFacts(name=run.name, path=str(run.path), state=state, detail=detail, updated=updated, **figures)


def _current_submission(
    run: RunDirectory, started: AttemptStarted | None, job_states: Mapping[str, JobState]
) -> Submission | None:
    """The newest one; but while that waits for another job's end, and if that end was a good one, the other."""
    chain = last_chain(run)[-2:]
    alive = [one for one in chain if one.job_id in job_states and job_states[one.job_id].is_alive]
    trained = [one for one in chain if started is not None and one.job_id == started.job_id]
    return next(iter(alive or trained or chain[-1:]), None)


def _state(
    run: RunDirectory, submission: Submission | None, events: list[AnyEvent], job_states: Mapping[str, JobState]
) -> tuple[str, str]:
    """(state, one line about it): what Slurm says of the newest submission, else the journal's last word."""
    job = None if submission is None else job_states.get(submission.job_id)
    if job is not None and job.is_waiting:
        return ("requeued" if events else "queued"), job.reason
    since = 0.0 if submission is None else submission.time
    recent = [event for event in events if event.time >= since]
    newest = _last(recent, (AttemptStarted, AttemptEnded))
    if isinstance(newest, AttemptEnded):
        return _ended_state(run, newest, since, job)
    if submission is None or (job is not None and job.is_alive):
        return "running", ""
    if job is not None:
        return "failed", _cause(run, since) or f"Slurm says {job.state}"
    if submission.executor == "local" and not local_job_is_alive(submission.job_id, submission.host):
        cause = _cause(run, since)
        return ("failed", cause) if cause else ("lost", "its processes are gone")
    return ("queued", "Slurm does not say") if submission.executor == "slurm" and not recent else ("running", "")


def _ended_state(run: RunDirectory, ended: AttemptEnded, since: float, job: JobState | None) -> tuple[str, str]:
    if ended.outcome == AttemptEnded.FAILED:
        return "failed", _cause(run, since) or ended.detail
    if ended.outcome == AttemptEnded.FINISHED:
        return "done", ""
    if ended.requeued and job is not None and not job.is_alive:
        return "stopped", f"{ended.detail}; Slurm says {job.state}"  # somebody took it out of the queue
    return ("requeued" if ended.requeued else "stopped"), ended.detail


def _cause(run: RunDirectory, since: float) -> str:
    """The last line of what the first failing rank said."""
    failure = first_failure(run, since)
    return "" if failure is None else failure.text.splitlines()[-1]


def _last(events: list[Any], kind: Any) -> Any:
    return next((event for event in reversed(events) if isinstance(event, kind)), None)
