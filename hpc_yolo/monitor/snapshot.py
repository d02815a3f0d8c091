"""Plain facts about runs, joined from their journals and the last answer of Slurm. Nothing is drawn here.

A collector reads only what was added to the journals since it looked last. What it gives is a value: whoever draws it
reads nothing.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from hpc_yolo.cluster.job_cache import CachedJobState, JobCache, Reply
from hpc_yolo.cluster.jobs import Job, LocalJob, current_jobs
from hpc_yolo.cluster.slurm_output import JobState, parse_slurm_clock
from hpc_yolo.core.errors import RunError
from hpc_yolo.monitor.alerts import problems_of
from hpc_yolo.monitor.run_record import RecordReader, RunRecord, resampled
from hpc_yolo.monitor.tui.marks import short_time
from hpc_yolo.resilience.stop_signal import describe
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, AttemptStarted, Cause, TrainingLeft
from hpc_yolo.runs.failures import first_failure
from hpc_yolo.runs.metrics import Losses, Metrics, total_loss
from hpc_yolo.runs.submissions import Submission

FIND_INTERVAL_S = 10.0
SHOWN_TREND_POINTS = 12
TRAINING = ("running", "saving")
OVER = ("done", "stopped", "cancelled", "failed", "lost", "gone")


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One run as it stands.

    Attributes:
        state: unstarted (nobody has submitted it), queued, running, saving (its ranks have left the training),
            requeued, stopped, cancelled (by a person, before or after it began), failed, done, lost (ended without a
            word), unreadable, gone (its directory was there a while ago).
        left_s: until the last step at the pace of now, evaluations not counted; None where it does not run.
        mem_bytes: the most that any rank has used.
        device_use: share of the last moments in which the GPUs did anything, the mean over those that say.
        data_wait_share: of a step, the mean over ranks.
        updated: time of the last event, or of the submission; all times in seconds since 1970.
        causes: why its attempts so far ended, and how many for each; without the last one of a run that is done.
        saved: time of the newest checkpoint.
        job_left_s: until the time limit of the job that runs.
        more_starts: how many jobs of that length the run needs after this one at the pace of now.
        slurm_time: when Slurm gave the answer that counts here; None where none does.
        problems: what a person should look at, the worst first.
        loss_trend, map_trend: a few values from the first to the last.
    """

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
    losses: Losses = {}
    images_per_s: float | None = None
    metrics: Metrics | None = None
    best_epoch: int | None = None
    updated: float | None = None
    left_s: float | None = None
    mem_bytes: int | None = None
    device_use: float | None = None
    data_wait_share: float | None = None
    causes: dict[str, int] = {}
    saved: float | None = None
    job_left_s: float | None = None
    more_starts: int | None = None
    slurm_time: float | None = None
    problems: list[str] = []
    loss_trend: list[float] = []
    map_trend: list[float] = []

    @property
    def loss(self) -> float | None:
        """The sum of the terms of the loss."""
        return total_loss(self.losses)

    def metric(self, name: str) -> float | None:
        """Return the metric `name` of the best evaluation; None before the first."""
        return None if self.metrics is None else float(getattr(self.metrics, name))

    @property
    def unsaved_s(self) -> float | None:
        """How old the newest checkpoint was at the last event."""
        return None if self.saved is None or self.updated is None else max(self.updated - self.saved, 0.0)

    @property
    def causes_words(self) -> str:
        """Such as "2 preempted, 1 time limit"."""
        return ", ".join(f"{number} {cause}" for cause, number in self.causes.items())

    @property
    def outlook(self) -> str:
        """When it will be done and whether the job's time suffices, in words; "" where nobody knows."""
        if self.left_s is None:
            return ""
        words = f"done in {short_time(self.left_s)}"
        if self.more_starts:
            words += f"; needs {self.more_starts} more start{'s' if self.more_starts > 1 else ''}"
        return words if self.job_left_s is None else f"{words} (the job has {short_time(self.job_left_s)} left)"

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes unless somebody submits it again."""
        return self.state in OVER


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All runs at `time`. `num_unread`: runs whose journals wait to be read; they are not among `runs` yet.

    `slurm_time` and `slurm_error`: when Slurm answered last, and why not since.
    """

    time: float
    runs: list[RunFacts]
    num_unread: int = 0
    slurm_time: float | None = None
    slurm_error: str = ""


class TrackedRun:
    """One run's files, each read again only when it has changed."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.reader = RecordReader(run)
        self.is_read = False
        self._error = ""
        self._submissions: tuple[float, int] | None = None
        self._jobs: list[Job] = []
        self._causes: dict[tuple[float, int], str] = {}
        self._last: tuple[CachedJobState | None, RunFacts] | None = None  # since the last change of a file

    @property
    def record(self) -> RunRecord:
        return self.reader.record

    def read(self) -> None:
        """Take in what is new in the run's files."""
        try:
            has_news = self._read_submissions()
            if not self.is_read or self.reader.has_news():
                self.reader.read()
                has_news = True
            if has_news or self._error:
                self._error, self._last = "", None
        except OSError as error:
            self._error = f"{error.filename}: {error.strerror}"
        except RunError as error:
            self._error = error.message
        self.is_read = True

    @property
    def is_over(self) -> bool:
        """Whether nothing more was to come when its facts were asked for last."""
        return self._last is not None and self._last[1].is_over

    def _read_submissions(self) -> bool:
        """Whether there was anything new."""
        try:
            stat = self.run.submissions.stat()
        except FileNotFoundError:
            return False
        if (stat.st_mtime, stat.st_size) == self._submissions:
            return False
        self._jobs = current_jobs(self.run)
        self._submissions = (stat.st_mtime, stat.st_size)
        return True

    def slurm_job_ids(self) -> list[str]:
        """Jobs of which Slurm should be asked; none for a run that has come to its end."""
        newest = self.record.newest
        jobs = [job for job in self._jobs if job.uses_slurm]
        has_ended = isinstance(newest, AttemptEnded) and not newest.requeued
        if jobs and has_ended and newest is not None and newest.time >= jobs[-1].submission.time:
            return []
        return [job.address for job in jobs]

    def facts(self, answer: Reply, now: float) -> RunFacts:
        """The run as its files and Slurm's `answer` have it at `now`."""
        if self._error:
            return RunFacts(name=self.run.name, path=str(self.run.path), state="unreadable", detail=self._error)
        job = self._current_job(answer)
        submission = None if job is None else job.submission
        told = None if job is None else self._counting_word(answer, job)
        if self.is_over and self._last is not None and self._last[0] == told:
            return self._last[1]
        state, detail = self._state(job, None if told is None else told.job)
        figures = _figures(self.record, submission, is_running=state == "running")
        if state == "running" and submission is not None:
            figures |= _job_figures(answer.jobs.get(submission.address), figures.get("left_s"), now)
        updated = self.record.last_time or (None if submission is None else submission.time)
        facts = RunFacts(
            name=self.run.name,
            path=str(self.run.path),
            state=state,
            detail=detail,
            updated=updated,
            slurm_time=None if told is None else told.time,
            problems=problems_of(self.record, is_running=state in TRAINING, now=now),
            **figures,
        )
        self._last = told, facts
        return facts

    def _current_job(self, answer: Reply) -> Job | None:
        """The newest one; but while that waits for another job's end, and if that end was a good one, the other."""
        alive = [one for one in self._jobs if (told := answer.jobs.get(one.address)) and told.job.is_alive]
        started = self.record.started
        trained = [one for one in self._jobs if started is not None and one.id == started.job_id]
        return next(iter(alive or trained or self._jobs[-1:]), None)

    def _counting_word(self, answer: Reply, job: Job) -> CachedJobState | None:
        """What Slurm says of the job, unless the journal has told of something since."""
        told = answer.jobs.get(job.address) if job.uses_slurm else None
        return None if told is None or self.record.last_time > told.time else told

    def _state(self, job: Job | None, state: JobState | None) -> tuple[str, str]:
        """(state, one line about it): what Slurm says of the newest submission, else the journal's last word."""
        newest = self.record.newest
        if not self.record.num_events and self.reader.size_bytes:
            return "unreadable", "its journal holds no line that this version can read"
        if state is not None and state.is_waiting:
            return ("requeued" if self.record.num_events else "queued"), _waiting_words(state)
        since = 0.0 if job is None else job.submission.time
        if isinstance(newest, AttemptEnded) and newest.time >= since:
            return self._ended_state(newest, since, state)
        if job is None and not self.record.num_events:
            return "unstarted", "no job was submitted, and no process has said anything"
        if job is None or (state is not None and state.is_alive):
            return self._training_state(since)
        if state is not None:
            return self._dead_state(state, since)
        if isinstance(job, LocalJob) and not job.state().is_alive:
            cause = self._cause(since)
            return ("failed", cause) if cause else ("lost", "its processes are gone")
        is_silent = job.uses_slurm and self.record.last_time < since
        return ("queued", "Slurm has not said yet") if is_silent else self._training_state(since)

    def _dead_state(self, job: JobState, since: float) -> tuple[str, str]:
        """(state, one line) of a job that is over and of which the journal has not told."""
        cause = self._cause(since)
        if cause or job.state != "CANCELLED":
            return "failed", cause or f"Slurm says {job.state}"
        has_begun = self.record.started is not None and self.record.started.time >= since
        return "cancelled", f"Slurm says {job.state}" if has_begun else "before it began"

    def _training_state(self, since: float) -> tuple[str, str]:
        newest = self.record.newest
        if not isinstance(newest, TrainingLeft) or newest.time < since:
            return "running", ""
        return "saving", describe(newest.signal) if newest.signal else "after its last step"

    def _ended_state(self, ended: AttemptEnded, since: float, job: JobState | None) -> tuple[str, str]:
        if ended.outcome == AttemptEnded.FAILED:
            # What the batch script has found out is more than a rank's word that another one had gone.
            is_ranks_own = ended.cause in ("", Cause.ERROR, Cause.STALLED)
            return "failed", (is_ranks_own and self._cause(since)) or ended.detail
        if ended.outcome == AttemptEnded.FINISHED:
            return "done", ""
        if ended.requeued and job is not None and not job.is_alive:  # somebody took it out of the queue
            state = "cancelled" if job.state == "CANCELLED" else "stopped"
            return state, f"{ended.detail}; Slurm says {job.state}"
        if ended.cause == Cause.CANCELLED:
            return "cancelled", ended.detail
        return ("requeued" if ended.requeued else "stopped"), ended.detail

    def _cause(self, since: float) -> str:
        """The last line of what the first failing rank said; looked for again when the journal has grown."""
        key = (since, self.record.num_events)
        if not self._causes.get(key):
            failure = first_failure(self.run, since)
            self._causes = {key: "" if failure is None else failure.text.splitlines()[-1]}
        return self._causes[key]


class Collector:
    """Keeps facts about many runs up to date at the cost of what has changed."""

    def __init__(
        self,
        find: Callable[[], Iterable[RunDirectory]],
        answers: JobCache,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            find: the runs there are; asked every ten seconds.
        """
        self._find = find
        self._answers = answers
        self._clock = clock
        self._tracked: dict[str, TrackedRun] = {}
        self._gone: dict[str, RunFacts] = {}
        self._found_at = float("-inf")
        self._wanted: list[str] = []

    def refresh(self, *, budget_s: float = float("inf"), ask_slurm: bool = True) -> Snapshot:
        """The runs as they stand now.

        Args:
            budget_s: begin no further journal after so many seconds; the rest come at the next call.
            ask_slurm: whether Slurm may be asked, which may take seconds.
        """
        deadline_s = time.monotonic() + budget_s
        looks_at_all = self._find_runs()
        # Those that were seen before first: a screen must not wait for an archive to hear of what runs.
        for tracked in sorted(self._tracked.values(), key=_reading_order):
            if tracked.is_over and not looks_at_all:
                continue
            if tracked.is_read or time.monotonic() < deadline_s:
                tracked.read()
        read = [tracked for tracked in self._tracked.values() if tracked.is_read]
        self._wanted = wanted = [job_id for tracked in read for job_id in tracked.slurm_job_ids()]
        answer = self.ask_slurm() if ask_slurm else self._answers.latest()
        now = self._clock()
        return Snapshot(
            time=now,
            runs=[*(tracked.facts(answer, now) for tracked in read), *self._gone.values()],
            num_unread=len(self._tracked) - len(read),
            slurm_time=answer.time if wanted else None,
            slurm_error=answer.error if wanted else "",
        )

    def ask_slurm(self) -> Reply:
        """Slurm's answer about the jobs of the last refresh; may take seconds, so a screen has a thread for it."""
        return self._answers.query(self._wanted)

    def _find_runs(self) -> bool:
        """Whether it was time to look for runs, and so at those too that have come to their end."""
        now_s = time.monotonic()
        if now_s - self._found_at < FIND_INTERVAL_S:
            return False
        runs = {str(run.path): run for run in self._find()}
        for path, tracked in self._tracked.items():
            if path not in runs:
                words = "its directory has been moved or removed"
                self._gone[path] = RunFacts(name=tracked.run.name, path=path, state="gone", detail=words)
        for path in self._gone.keys() & runs.keys():
            del self._gone[path]
        self._tracked = {path: self._tracked.get(path) or TrackedRun(run) for path, run in runs.items()}
        self._found_at = now_s
        return True


def _reading_order(tracked: TrackedRun) -> tuple[bool, float]:
    """Known runs, then those whose journals are newest."""
    if tracked.is_read:
        return False, 0.0
    try:
        return True, -tracked.run.journal.stat().st_mtime
    except OSError:
        return True, 0.0


def _waiting_words(job: JobState) -> str:
    """Why it waits, and until when in Slurm's own estimate."""
    return ", ".join(filter(None, (job.reason, job.start and f"starts about {job.start.replace('T', ' ')}")))


def _job_figures(told: CachedJobState | None, left_s: float | None, now: float) -> dict[str, Any]:
    """What the job's time limit leaves, and whether that is enough."""
    if told is None or told.job.time_left_s is None or told.job.start is None:
        return {}
    job_left_s = max(told.job.time_left_s - (now - told.time), 0.0)
    started = parse_slurm_clock(told.job.start)
    if started is None:
        return {"job_left_s": job_left_s}
    limit_s = max(job_left_s + now - started, 1.0)
    more = None if left_s is None else max(math.ceil((left_s - job_left_s) / limit_s), 0)
    return {"job_left_s": job_left_s, "more_starts": more}


def _figures(record: RunRecord, submission: Submission | None, *, is_running: bool) -> dict[str, Any]:
    """What the journal has of progress and quality, and the submission of place."""
    figures: dict[str, Any] = {}
    started, progress, step = record.started, record.progress, record.step
    if progress is not None:
        figures |= {name: getattr(progress, name) for name in ("epoch", "step", "losses", "images_per_s")}
    if started is not None:
        figures |= _place(started)
        if progress is None or progress.time < started.time:
            figures |= {"epoch": started.epoch, "step": started.step}
        if is_running and progress is not None and progress.images_per_s > 0:
            figures["left_s"] = (figures["total_steps"] - figures["step"]) * started.batch / progress.images_per_s
    if step is not None and step.rank_step_s:
        figures["mem_bytes"] = max(step.rank_mem_bytes, default=None)
        total_s = sum(step.rank_step_s)
        if uses := [use for use in step.rank_device_use if use is not None]:
            figures["device_use"] = sum(uses) / len(uses)
        figures["data_wait_share"] = sum(step.rank_data_wait_s) / total_s if total_s > 0 else None
    if record.best is not None:
        figures |= {"metrics": record.best.metrics, "best_epoch": record.best.epoch}
    if submission is not None:
        names = ("executor", "job_id", "num_nodes", "tasks_per_node", "gpus_per_node")
        figures |= {name: getattr(submission, name) for name in names}
    causes = Counter(attempt.cause for attempt in record.attempts.started if attempt.cause not in ("", Cause.FINISHED))
    figures |= {"causes": dict(causes), "saved": record.saved_times[-1] if record.saved_times else None}
    figures["loss_trend"] = list(resampled(record.loss, SHOWN_TREND_POINTS))
    figures["map_trend"] = list(resampled(record.map50_95, SHOWN_TREND_POINTS))
    return figures


def _place(started: AttemptStarted) -> dict[str, Any]:
    return {
        "attempts": started.attempt,
        "epochs": started.epochs,
        "total_steps": started.epochs * started.steps_per_epoch,
        "num_nodes": started.num_nodes,
        "tasks_per_node": started.world_size // started.num_nodes,
        "job_id": started.job_id,
    }
