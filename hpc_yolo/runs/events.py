"""The events of a run: one typed event is one line of the journal.

A line is a JSON object: `event` (the kind), `time` (seconds since 1970), `attempt`, and the fields below. Kinds and
fields may be added; readers skip unknown ones. Losses are the terms of a global batch with their gains;
`images_per_s` counts images over all ranks.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from hpc_yolo.runs.metrics import ClassMetrics, Losses, Metrics

FORMAT_VERSION = 2


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=False):
    """Base of all events. `time` and `attempt` are set by the journal's writer."""

    time: float = 0.0
    attempt: int = 0


class RankLocation(msgspec.Struct, frozen=True, kw_only=True):
    """The node and process of one rank."""

    rank: int
    local_rank: int
    node_rank: int
    host: str
    pid: int


class AttemptStarted(Event, frozen=True, kw_only=True, tag="attempt_started"):
    """All ranks are connected; training starts or resumes at `epoch`, `step`.

    `device_mem_bytes`: of rank 0's GPU. `process_started`: when rank 0's process began, in seconds since 1970.
    """

    format_version: int = FORMAT_VERSION
    job_id: str | None
    launcher: str
    device: str
    precision: str
    world_size: int
    num_nodes: int
    batch: int
    epochs: int
    steps_per_epoch: int
    num_images: int
    epoch: int
    step: int
    device_mem_bytes: int | None = None
    process_started: float | None = None
    augment_device: str = "cpu"
    ranks: list[RankLocation]


class ImagesCached(Event, frozen=True, kw_only=True, tag="cache"):
    """The decoded images of training and validation are kept after their first use, `cached_bytes` of `needed_bytes`.

    `kind`: where; "off": nowhere. `free_bytes`: there, before, on the node with the least.
    """

    kind: str
    needed_bytes: int
    cached_bytes: int
    free_bytes: int


class DataStaging(Event, frozen=True, kw_only=True, tag="staging"):
    """The images are being copied to `num_nodes` nodes before the training starts; `is_over`: they have copies.

    Bytes are those of all nodes; `copied_bytes` without what was there before or another job copies; `bytes_per_s`
    since the event before. A node without a copy has a warning.
    """

    stage: str
    num_nodes: int
    done_bytes: int
    total_bytes: int
    copied_bytes: int
    bytes_per_s: float
    seconds: float
    is_over: bool = False


class WeightsLoaded(Event, frozen=True, kw_only=True, tag="weights"):
    """The number of the model's tensors that were read from the file of weights."""

    path: str
    num_kept: int
    num_tensors: int


class AnchorsChecked(Event, frozen=True, kw_only=True, tag="anchors"):
    """The fit of the anchors to the training labels before the first step. `anchors`: of each level, in pixels."""

    best_possible_recall: float
    anchors_per_target: float
    are_new: bool
    anchors: list[list[float]]


class StepLogged(Event, frozen=True, kw_only=True, tag="step"):
    """Values of the steps since the last such event. `step` counts global batches since training began.

    A rank's forward pass is what it computes before it waits for others: with `sync_bn` its first layer, else the whole
    pass.
    """

    epoch: int
    step: int
    losses: Losses
    grad_norm: float | None
    lr: float
    images_per_s: float
    rank_step_s: list[float]
    rank_data_wait_s: list[float]
    rank_mem_bytes: list[int]
    rank_forward_s: list[float] = []
    rank_device_use: list[float | None] = []
    rank_batches_ready: list[float] = []


class EpochEnded(Event, frozen=True, kw_only=True, tag="epoch"):
    """Means over one epoch; `seconds` is the training part alone."""

    epoch: int
    step: int
    losses: Losses
    lr: float
    images_per_s: float
    seconds: float


class Evaluated(Event, frozen=True, kw_only=True, tag="evaluated"):
    """Evaluation of the EMA model on the validation images, over all ranks.

    `is_aside`: by a job of its own, which took the seconds; the event is written when the training has its result.
    """

    epoch: int
    step: int
    num_images: int
    metrics: Metrics
    images_per_s: float
    seconds: float
    is_best: bool
    classes: list[ClassMetrics]
    is_aside: bool = False


class TrialStopped(Event, frozen=True, kw_only=True, tag="trial_stopped"):
    """The stop rule of the sweep ends this trial after the evaluation of `epoch`; the end of the attempt follows.

    `epochs`: to which the trial was to train; submitted with another number, it goes on.
    """

    rule: str
    metric: str
    epoch: int
    step: int
    epochs: int
    value: float | None
    threshold: float
    num_compared: int


class CheckpointSaved(Event, frozen=True, kw_only=True, tag="checkpoint"):
    """A checkpoint is durable under `path`, relative to the run directory."""

    epoch: int
    step: int
    path: str
    size_bytes: int
    seconds: float


class ResultsWritten(Event, frozen=True, kw_only=True, tag="results"):
    """Charts and images of the best model (of `epoch`) are under `path`, relative to the run directory."""

    epoch: int
    step: int
    path: str
    seconds: float


class WarningRaised(Event, frozen=True, kw_only=True, tag="warning"):
    """A problem that did not end the run, such as images left out."""

    message: str


class ImagesReplaced(Event, frozen=True, kw_only=True, tag="replaced"):
    """Images of `split` cannot be read any more, `total` of `num_images` since the attempt began.

    The next image of the split is used for each. `first`: up to three of them.
    """

    split: str
    total: int
    num_images: int
    first: list[str]
    step: int


class TrainingLeft(Event, frozen=True, kw_only=True, tag="training_left"):
    """All ranks have left the training after `step`, the last one or because of `signal`; its state is being saved."""

    epoch: int
    step: int
    signal: int | None = None


class Cause:
    """Why an attempt ended. Each cause has its own rule for what follows: see `resilience.attempt_end`."""

    FINISHED: ClassVar[str] = "finished"
    PREEMPTED: ClassVar[str] = "preempted"  # by Slurm, or by a SIGTERM from elsewhere while the job lives on
    TIME_LIMIT: ClassVar[str] = "time limit"
    NODE_FAILURE: ClassVar[str] = "node failure"
    KILLED: ClassVar[str] = "killed"  # a task, srun or a daemon of Slurm ended from outside: SIGKILL, memory
    OUT_OF_MEMORY: ClassVar[str] = "out of memory"  # of the job: it would come again with the same request
    STALLED: ClassVar[str] = "stalled"  # a rank hung, and the watchdog ended all
    ERROR: ClassVar[str] = "error"  # in this package, the spec or the data: it would come again
    CANCELLED: ClassVar[str] = "cancelled"
    INTERRUPTED: ClassVar[str] = "interrupted"  # by the user, with Ctrl-C


class AttemptEnded(Event, frozen=True, kw_only=True, tag="attempt_ended"):
    """The end of this attempt: finished, stopped (by the signal in `detail`) or failed (for the reason in `detail`).

    `is_idle`: it was stopped before its first step, and not by a preemption that Slurm confirms; a second such end in a
    row ends the run.
    """

    FINISHED: ClassVar[str] = "finished"
    STOPPED: ClassVar[str] = "stopped"
    FAILED: ClassVar[str] = "failed"

    outcome: str
    epoch: int
    step: int
    detail: str = ""
    cause: str = ""
    requeued: bool = False
    failed_nodes: list[str] = []
    is_idle: bool = False


AnyEvent = (
    AttemptStarted
    | ImagesCached
    | DataStaging
    | WeightsLoaded
    | AnchorsChecked
    | StepLogged
    | EpochEnded
    | Evaluated
    | TrialStopped
    | CheckpointSaved
    | ResultsWritten
    | WarningRaised
    | ImagesReplaced
    | TrainingLeft
    | AttemptEnded
)
