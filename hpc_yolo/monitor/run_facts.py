"""The current facts of one run: a value that columns, the list and the page of a run are drawn from.

It holds the newest events of each kind as they are; what follows from them is a property. A fact that an event holds
needs no field here: a column of `columns.py` takes it from the event.
"""

from __future__ import annotations

import msgspec

from hpc_yolo.core.units import counted, short_time
from hpc_yolo.resilience.stage_state import StageStatus
from hpc_yolo.runs.events import AttemptStarted, EpochEnded, Evaluated, StepLogged, TrialStopped
from hpc_yolo.runs.metrics import Losses, Metrics, total_loss
from hpc_yolo.runs.submissions import Submission

TRAINING = ("running", "saving")
OVER = ("done", "stopped", "cancelled", "failed", "lost", "gone")


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One run. All times in seconds since 1970.

    Attributes:
        state: unstarted (nobody has submitted it), queued, running, saving (its ranks have left the training),
            suspended (Slurm has stopped its processes, and they may go on), requeued, stopped, cancelled (by a
            person, before or after it began), failed, done, lost (ended without a record), unreadable, gone
            (its directory existed a while ago).
        detail: one line about the state.
        submission: the job that the state is about.
        started: of the newest attempt.
        progress: the newest losses and speed, maybe of an earlier attempt.
        step_logged: the newest values of the ranks that train now.
        best: the best evaluation.
        trial_stop: the comparison that ended it, a trial of a sweep.
        updated: time of the last event, or of the submission.
        causes: number of ended attempts by cause, except the end of a run that is done.
        checkpoint_time: of the newest checkpoint.
        job_time_left_s: until the time limit of the job that runs.
        slurm_time: time of Slurm's reply that the state follows from; None where none does.
        problems: what needs attention, the worst first.
        stages: what runs after the training, in its order.
        loss_trend, map_trend: a few values from the first to the last.
        sweep: directory of the sweep of which the run is a trial.
        num_trials: trials of the sweep that this row stands for; 0 for a run.
    """

    name: str
    path: str
    state: str
    detail: str = ""
    submission: Submission | None = None
    started: AttemptStarted | None = None
    progress: StepLogged | EpochEnded | None = None
    step_logged: StepLogged | None = None
    best: Evaluated | None = None
    trial_stop: TrialStopped | None = None
    updated: float | None = None
    causes: dict[str, int] = {}
    checkpoint_time: float | None = None
    job_time_left_s: float | None = None
    jobs_needed: int | None = None
    slurm_time: float | None = None
    problems: list[str] = []
    stages: list[StageStatus] = []
    loss_trend: list[float] = []
    map_trend: list[float] = []
    sweep: str = ""
    num_trials: int = 0

    @property
    def executor(self) -> str | None:
        """slurm or local; None for a run that was started by hand."""
        return None if self.submission is None else self.submission.executor

    @property
    def job_id(self) -> str | None:
        """Id of the job that the state is about."""
        if self.submission is not None:
            return self.submission.job_id
        return None if self.started is None else self.started.job_id

    @property
    def num_nodes(self) -> int:
        """Nodes of the job; 0 before there is one."""
        source = self.submission or self.started
        return 0 if source is None else source.num_nodes

    @property
    def tasks_per_node(self) -> int:
        """Tasks on each node; 0 before there is a job."""
        if self.submission is not None:
            return self.submission.tasks_per_node
        return 0 if self.started is None else self.started.world_size // self.started.num_nodes

    @property
    def gpus_per_node(self) -> int:
        """GPUs on each node that the job asked for."""
        return 0 if self.submission is None else self.submission.gpus_per_node

    @property
    def attempts(self) -> int:
        """Number of the newest attempt."""
        return 0 if self.started is None else self.started.attempt

    @property
    def _position(self) -> AttemptStarted | StepLogged | EpochEnded | None:
        """Event that holds the present step: an attempt begins where its checkpoint was made."""
        if self.progress is not None and (self.started is None or self.progress.attempt >= self.started.attempt):
            return self.progress
        return self.started

    @property
    def epoch(self) -> int | None:
        """Epoch, from 0."""
        return None if self._position is None else self._position.epoch

    @property
    def step(self) -> int | None:
        """Steps done."""
        return None if self._position is None else self._position.step

    @property
    def epochs(self) -> int | None:
        """Epochs of the whole training."""
        return None if self.started is None else self.started.epochs

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole training."""
        return None if self.started is None else self.started.epochs * self.started.steps_per_epoch

    @property
    def fraction_done(self) -> float | None:
        """Fraction of the steps that are done."""
        return self.step / self.total_steps if self.total_steps and self.step is not None else None

    @property
    def losses(self) -> Losses:
        """Terms of the loss by name."""
        return {} if self.progress is None else self.progress.losses

    @property
    def loss(self) -> float | None:
        """Sum of the terms of the loss."""
        return total_loss(self.losses)

    @property
    def images_per_s(self) -> float | None:
        """Images a second over all ranks."""
        return None if self.progress is None else self.progress.images_per_s

    @property
    def metrics(self) -> Metrics | None:
        """Metrics of the best evaluation."""
        return None if self.best is None else self.best.metrics

    @property
    def best_epoch(self) -> int | None:
        """Epoch of the best evaluation, from 0."""
        return None if self.best is None else self.best.epoch

    @property
    def eta_s(self) -> float | None:
        """Seconds until the last step at the present speed, without evaluations; None unless it trains."""
        if self.state != "running" or self.started is None or not self.images_per_s:
            return None
        assert self.total_steps is not None and self.step is not None
        return (self.total_steps - self.step) * self.started.batch / self.images_per_s

    @property
    def mem_bytes(self) -> int | None:
        """Most memory that any rank has used."""
        return None if self.step_logged is None else max(self.step_logged.rank_mem_bytes, default=None)

    @property
    def device_use(self) -> float | None:
        """Fraction of the last moments in which the GPUs were busy: the mean over those that report it."""
        uses = [] if self.step_logged is None else [use for use in self.step_logged.rank_device_use if use is not None]
        return sum(uses) / len(uses) if uses else None

    @property
    def data_wait_fraction(self) -> float | None:
        """Fraction of a step that is spent waiting for data, the mean over ranks."""
        total_s = 0.0 if self.step_logged is None else sum(self.step_logged.rank_step_s)
        return sum(self.step_logged.rank_data_wait_s) / total_s if self.step_logged and total_s > 0 else None

    @property
    def since_checkpoint_s(self) -> float | None:
        """Age of the newest checkpoint at the last event."""
        if self.checkpoint_time is None or self.updated is None:
            return None
        return max(self.updated - self.checkpoint_time, 0.0)

    @property
    def causes_text(self) -> str:
        """Number of ended attempts by cause, such as "2 preempted, 1 time limit"."""
        return ", ".join(f"{number} {cause}" for cause, number in self.causes.items())

    @property
    def outlook(self) -> str:
        """When the run will be done, and whether the job's time limit suffices; "" where that is not known."""
        if self.eta_s is None:
            return ""
        text = f"done in {short_time(self.eta_s)}"
        if self.jobs_needed:
            text += f"; needs {counted(self.jobs_needed, 'more job')}"
        left_s = self.job_time_left_s
        return text if left_s is None else f"{text} (the job has {short_time(left_s)} left)"

    @property
    def is_over(self) -> bool:
        """True if nothing more happens unless it is submitted again."""
        return self.state in OVER and not any(stage.is_under_way for stage in self.stages)

    @property
    def needs_attention(self) -> bool:
        """True for a run that has a problem or has failed."""
        return bool(self.problems) or self.state in ("failed", "lost", "unreadable")
