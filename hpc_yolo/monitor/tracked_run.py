"""One run's files and its jobs, joined into facts: what state it is in, and what it needs."""

from __future__ import annotations

import math

import msgspec

from hpc_yolo.cluster.job_cache import CachedJobState, Reply
from hpc_yolo.cluster.jobs import Job, LocalJob, current_jobs
from hpc_yolo.cluster.pending_reasons import reason_text
from hpc_yolo.cluster.slurm_output import UNKNOWN, JobState, parse_slurm_clock
from hpc_yolo.core.errors import RunError
from hpc_yolo.monitor.alerts import problems_of, stage_problems
from hpc_yolo.monitor.run_facts import TRAINING, RunFacts
from hpc_yolo.monitor.run_record import RecordReader, RunRecord
from hpc_yolo.monitor.tracked_stages import TrackedStages
from hpc_yolo.monitor.trend import resampled
from hpc_yolo.resilience.stage_state import StageStatus
from hpc_yolo.resilience.stop_signal import describe
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.event_lines import staging_text
from hpc_yolo.runs.events import AttemptEnded, Cause, TrainingLeft
from hpc_yolo.runs.failures import first_failure
from hpc_yolo.runs.sweep import sweep_of

SHOWN_TREND_POINTS = 10


class TrackedRun:
    """One run's files, each read again only when it has changed."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.reader = RecordReader(run)
        self.is_read = False
        sweep = sweep_of(run)
        self._sweep = "" if sweep is None else str(sweep.path)
        self._stages = TrackedStages(run)
        self._error = ""
        self._is_refused = False  # the journal has an older format
        self._submissions: tuple[float, int] | None = None
        self._jobs: list[Job] = []
        self._causes: dict[tuple[float, int], str] = {}
        self._last: tuple[CachedJobState | None, RunFacts] | None = None  # since the last change of a file

    @property
    def record(self) -> RunRecord:
        """Record of the journal."""
        return self.reader.record

    def read(self) -> None:
        """Read what is new in the run's files."""
        try:
            if self._is_refused and not self.reader.has_news():
                return
            is_changed = self._read_submissions()
            is_changed |= self._stages.read()
            if not self.is_read or self.reader.has_news():
                self.reader.read()
                is_changed = True
            if is_changed or self._error:
                self._error, self._last, self._is_refused = "", None, False
        except OSError as error:
            self._error = f"{error.filename}: {error.strerror}"
        except RunError as error:
            self._error, self._is_refused = error.message, True
        self.is_read = True

    @property
    def is_over(self) -> bool:
        """True if nothing more happens, by the newest facts."""
        return self._last is not None and self._last[1].is_over

    def _read_submissions(self) -> bool:
        """Read the submissions where their file has changed; return True if so."""
        try:
            stat = self.run.submissions.stat()
        except FileNotFoundError:
            return False
        if (stat.st_mtime, stat.st_size) == self._submissions:
            return False
        self._jobs = current_jobs(self.run)
        self._stages.read_submissions()
        self._submissions = (stat.st_mtime, stat.st_size)
        return True

    def slurm_job_ids(self) -> list[str]:
        """Return the jobs to query Slurm about; of a run that is over only those of its stages."""
        state = "done" if self._last is None else self._last[1].state  # of a run that is over, as far as is known
        own = self._run_job_ids()
        stages = self._stages.slurm_addresses(state, self.record.attempts, _slurm_address(self._last_job()))
        return list(dict.fromkeys([*own, *stages]))

    def _run_job_ids(self) -> list[str]:
        newest = self.record.attempts.newest
        jobs = [job for job in self._jobs if job.uses_slurm]
        has_ended = jobs and newest is not None and not newest.goes_on
        if has_ended and newest is not None and newest.is_of([job.id for job in jobs], jobs[-1].submission.time):
            return []
        return [job.address for job in jobs]

    def facts(self, reply: Reply, now: float) -> RunFacts:
        """Return the run as of its files and of Slurm's `reply`. `now` is in seconds since 1970."""
        if self._error:
            return RunFacts(
                name=self.run.name, path=str(self.run.path), state="unreadable", detail=self._error, sweep=self._sweep
            )
        job = self._current_job(reply)
        cached = None if job is None else self._valid_state(reply, job)
        if self.is_over and self._last is not None and self._last[0] == cached:
            return self._last[1]
        state, detail = self._state(job, None if cached is None else cached.job)
        facts = self._make_facts(job, state, detail, now, None if cached is None else cached.time)
        facts = with_stages(facts, self._stages.statuses(state, self.record.attempts, _slurm_address(job), reply))
        if state == "running" and job is not None:
            facts = with_job_time(facts, reply.jobs.get(job.address), now)
        self._last = cached, facts
        return facts

    def _make_facts(self, job: Job | None, state: str, detail: str, now: float, slurm_time: float | None) -> RunFacts:
        record, submission = self.record, None if job is None else job.submission
        return RunFacts(
            name=self.run.name,
            path=str(self.run.path),
            state=state,
            detail=detail,
            submission=submission,
            started=record.started,
            progress=record.progress,
            step_logged=record.step,
            best=record.best,
            trial_stop=record.attempts.trial_stop,
            updated=record.last_time or (None if submission is None else submission.time),
            causes={cause: number for cause, number in record.causes.items() if cause != Cause.FINISHED},
            checkpoint_time=record.save_times[-1] if record.save_times else None,
            slurm_time=slurm_time,
            problems=problems_of(record, is_running=state in TRAINING, now=now),
            loss_trend=list(resampled(record.loss, SHOWN_TREND_POINTS)),
            map_trend=list(resampled(record.map50_95, SHOWN_TREND_POINTS)),
            sweep=self._sweep,
        )

    def _current_job(self, reply: Reply) -> Job | None:
        """Return the newest job; the one before it while the newest waits for its end, or is not needed after it."""
        alive = [one for one in self._jobs if (cached := reply.jobs.get(one.address)) and cached.job.is_alive]
        return alive[0] if alive else self._last_job()

    def _last_job(self) -> Job | None:
        """Return the job that trained last; the newest where none has."""
        started = self.record.started
        trained = [one for one in self._jobs if started is not None and one.id == started.job_id]
        return next(iter(trained or self._jobs[-1:]), None)

    def _valid_state(self, reply: Reply, job: Job) -> CachedJobState | None:
        """Return the state that Slurm reported for the job, unless the journal has a newer event."""
        cached = reply.jobs.get(job.address) if job.uses_slurm else None
        return None if cached is None or self.record.last_time > cached.time else cached

    def _state(self, job: Job | None, state: JobState | None) -> tuple[str, str]:
        """Return (state, one line about it), from Slurm's state of the job, else from the journal's newest event."""
        newest = self.record.newest
        if not self.record.num_events and self.reader.size_bytes:
            return "unreadable", "its journal holds no line that this version can read"
        if state is not None and state.is_waiting:
            return ("requeued" if self.record.num_events else "queued"), _waiting_text(state)
        since = 0.0 if job is None else job.submission.time
        staging = self.record.staging
        if staging is not None and staging.time >= since and _may_be_alive(job, state):
            return "running", staging_text(staging)
        if isinstance(newest, AttemptEnded) and self._is_of(job):
            return self._ended_state(newest, since, state)
        if job is None and not self.record.num_events:
            return "unstarted", "no job was submitted, and no process has written to its journal"
        if job is None or (state is not None and state.is_alive):
            if state is not None and state.is_suspended:
                return "suspended", f"Slurm reports {state.state}"
            return self._training_state(since)
        if state is not None:
            return self._dead_state(state, since)
        if isinstance(job, LocalJob) and not job.state().is_alive:
            cause = self._cause(since)
            return ("failed", cause) if cause else ("lost", "its processes no longer exist")
        is_unknown = job.uses_slurm and self.record.last_time < since and not self._is_of(job)
        return ("queued", "Slurm has not reported it yet") if is_unknown else self._training_state(since)

    def _is_of(self, job: Job | None) -> bool:
        """Return True if the newest attempt is one of `job`."""
        newest = self.record.attempts.newest
        return newest is not None and (job is None or newest.is_of([job.id], job.submission.time))

    def _dead_state(self, job: JobState, since: float) -> tuple[str, str]:
        """Return (state, one line) of a job that is over although its journal has no end."""
        cause = self._cause(since)
        if not cause and job.state == UNKNOWN:
            return "lost", "Slurm does not have its job any more"
        if cause or not job.is_cancelled:
            return "failed", cause or f"Slurm reports {job.state}"
        has_begun = self.record.started is not None and self.record.started.time >= since
        return "cancelled", f"Slurm reports {job.state}" if has_begun else "before it started"

    def _training_state(self, since: float) -> tuple[str, str]:
        newest = self.record.newest
        if not isinstance(newest, TrainingLeft) or newest.time < since:
            return "running", ""
        return "saving", describe(newest.signal) if newest.signal else "after its last step"

    def _ended_state(self, ended: AttemptEnded, since: float, job: JobState | None) -> tuple[str, str]:
        if ended.outcome == AttemptEnded.FAILED:
            # A cause that the batch script has found is more exact than a rank's error about a lost peer.
            is_from_rank = ended.cause in ("", Cause.ERROR, Cause.STALLED)
            return "failed", (is_from_rank and self._cause(since)) or ended.detail
        if ended.outcome == AttemptEnded.FINISHED:
            stopped = self.record.attempts.trial_stop
            return "done", "" if stopped is None else f"stopped early ({stopped.rule})"
        if ended.requeued and job is not None and not job.is_alive:  # removed from the queue
            state = "cancelled" if job.state == "CANCELLED" else "stopped"
            return state, f"{ended.detail}; Slurm reports {job.state}"
        if ended.cause == Cause.CANCELLED:
            return "cancelled", ended.detail
        return ("requeued" if ended.requeued else "stopped"), ended.detail

    def _cause(self, since: float) -> str:
        """Return one line about the first failed rank's error; it is searched again when the journal has grown."""
        since = max(since, self.record.attempts.end_before_newest)
        key = (since, self.record.num_events)
        if not self._causes.get(key):
            failure = first_failure(self.run, since)
            self._causes = {key: "" if failure is None else failure.headline}
        return self._causes[key]


def with_stages(facts: RunFacts, stages: list[StageStatus]) -> RunFacts:
    """Return `facts` with the state of the stages, and their problems after those of the training."""
    if not stages:
        return facts
    detail, under_way = facts.detail, [f"{stage.name} {stage.state}" for stage in stages if stage.is_under_way]
    if facts.state == "done" and under_way:
        detail = f"stages: {', '.join(under_way)}"
    problems = [*facts.problems, *stage_problems(stages)]
    return msgspec.structs.replace(facts, stages=stages, detail=detail, problems=problems)


def _may_be_alive(job: Job | None, state: JobState | None) -> bool:
    """Return False if the processes of a run have ended, as far as is known."""
    if state is not None:
        return state.is_alive
    return not isinstance(job, LocalJob) or job.state().is_alive


def _slurm_address(job: Job | None) -> str | None:
    return job.address if job is not None and job.uses_slurm else None


def with_job_time(facts: RunFacts, cached: CachedJobState | None, now: float) -> RunFacts:
    """Return `facts` with the time that the job's limit leaves, and how many more jobs the run needs."""
    if cached is None or cached.job.time_left_s is None or cached.job.start is None:
        return facts
    left_s = max(cached.job.time_left_s - (now - cached.time), 0.0)
    started = parse_slurm_clock(cached.job.start)
    needed = None
    if started is not None and facts.eta_s is not None:
        limit_s = max(left_s + now - started, 1.0)
        needed = max(math.ceil((facts.eta_s - left_s) / limit_s), 0)
    return msgspec.structs.replace(facts, job_time_left_s=left_s, jobs_needed=needed)


def _waiting_text(job: JobState) -> str:
    """Return why the job waits, and until when by Slurm's own estimate."""
    reason = reason_text(job.reason)
    return ", ".join(filter(None, (reason, job.start and f"starts about {job.start.replace('T', ' ')}")))
