"""Events as plain lines of text, for the log of a job and for `hpc-yolo follow`."""

from __future__ import annotations

from hpc_yolo.core.units import counted, short_bytes, short_time
from hpc_yolo.runs.events import (
    AnchorsChecked,
    AnyEvent,
    AttemptEnded,
    AttemptStarted,
    DataStaging,
    EpochEnded,
    Evaluated,
    ImagesCached,
    ImagesReplaced,
    ResultsWritten,
    StepLogged,
    TrialStopped,
    WarningRaised,
    WeightsLoaded,
)
from hpc_yolo.runs.metrics import METRIC_TITLES

MAX_HOSTS = 4


class EventLines:
    """Events of a run as lines, in the order of its journal.

    Attributes:
        epochs: number of epochs of the run; None before the start of an attempt.
    """

    def __init__(self) -> None:
        self.epochs: int | None = None

    def line(self, event: AnyEvent) -> str | None:
        """Return `event_line` of `event`, with the number of epochs from the last start of an attempt."""
        if isinstance(event, AttemptStarted):
            self.epochs = event.epochs
        return event_line(event, self.epochs)


def event_line(event: AnyEvent, epochs: int | None = None) -> str | None:
    """Return `event` as one line; None for those that are too frequent to print.

    Args:
        epochs: number of epochs of the run, where it is known.
    """
    if isinstance(event, AttemptStarted):
        return _started_line(event)
    if isinstance(event, DataStaging | ImagesCached | WeightsLoaded | AnchorsChecked):
        return _preparation_line(event)
    if isinstance(event, EpochEnded):
        of = "" if epochs is None else f"/{epochs}"
        speed = f"{event.images_per_s:.1f} img/s, {event.seconds:.1f} s"
        return f"epoch {event.epoch + 1}{of}: {losses_text(event)}, {speed}"
    if isinstance(event, Evaluated):
        aside = ", by a job of its own" if event.is_aside else ""
        return f"epoch {event.epoch + 1}: {metrics_text(event)}{' (best)' if event.is_best else ''}{aside}"
    if isinstance(event, TrialStopped):
        return f"stopped early after epoch {event.epoch + 1}: {stop_text(event)}"
    if isinstance(event, ResultsWritten):
        return f"plots and images of epoch {event.epoch + 1}: {event.path}/, {event.seconds:.1f} s"
    if isinstance(event, ImagesReplaced):
        return f"warning: {replaced_text(event)}"
    if isinstance(event, WarningRaised):
        return f"warning: {event.message}"
    return _ended_line(event) if isinstance(event, AttemptEnded) else None


def losses_text(event: StepLogged | EpochEnded) -> str:
    """Return the terms of the loss under their names."""
    return " ".join(f"{name} {three_decimals(value)}" for name, value in event.losses.items())


def metrics_text(event: Evaluated) -> str:
    """Return the two metrics that matter most."""
    return " ".join(
        f"{METRIC_TITLES[name]} {three_decimals(getattr(event.metrics, name))}" for name in ("map50", "map50_95")
    )


def cache_text(event: ImagesCached) -> str:
    """Return where decoded images are kept, and how many of them."""
    needed, cached, free = map(short_bytes, (event.needed_bytes, event.cached_bytes, event.free_bytes))
    if not event.cached_bytes:
        return f"off: {needed} are needed, and {free} are free"
    where = {"memory": "in memory", "disk": "on the local disk"}.get(event.kind, event.kind)
    of_all = f"{cached} of" if event.cached_bytes < event.needed_bytes else ""
    return f"{of_all} {needed} of decoded images {where}, of {free} that were free".strip()


def staging_text(event: DataStaging) -> str:
    """Return how far the copies of the images on the nodes are."""
    nodes = f"{event.stage} on {counted(event.num_nodes, 'node')}"
    done, total, rate = map(short_bytes, (event.done_bytes, event.total_bytes, event.bytes_per_s))
    if not event.is_over:
        return f"staging to {nodes}, {done} of {total}, {rate}/s"
    if event.num_nodes == 0:
        return "not staged"
    if event.copied_bytes == 0:
        return f"staged to {nodes}: {done} were there"
    of = "" if event.copied_bytes == event.done_bytes else f", {short_bytes(event.copied_bytes)} of them"
    return f"staged to {nodes}: {done}{of} copied in {short_time(event.seconds)}"


def replaced_text(event: ImagesReplaced) -> str:
    """Return how many images have been replaced, and the first of them."""
    return (
        f"damaged {event.split} images: {event.total} of {event.num_images} cannot be read any more, and the next one "
        f"is used for each (first: {', '.join(event.first)})"
    )


def stop_text(event: TrialStopped) -> str:
    """Return the comparison that ended a trial."""
    metric = METRIC_TITLES.get(event.metric, event.metric)
    others = counted(event.num_compared, "other trial")
    return f"{event.rule}: {metric} {three_decimals(event.value)} is under {event.threshold:.3f}, from {others}"


def three_decimals(value: float | None) -> str:
    """Return `value` with three decimals, or a dash where it is not known."""
    return "-" if value is None else f"{value:.3f}"


def _preparation_line(event: DataStaging | ImagesCached | WeightsLoaded | AnchorsChecked) -> str:
    """Return the line of an event before the first step."""
    if isinstance(event, ImagesCached):
        return f"cache: {cache_text(event)}"
    if isinstance(event, DataStaging):
        return f"data: {staging_text(event)}"
    if isinstance(event, WeightsLoaded):
        return f"weights: {event.num_kept} of {event.num_tensors} tensors from {event.path}"
    what = "new anchors" if event.are_new else "anchors"
    return f"{what}: {event.best_possible_recall:.1%} of boxes fit one, {event.anchors_per_target:.2f} on average"


def _started_line(event: AttemptStarted) -> str:
    hosts = list(dict.fromkeys(rank.host for rank in event.ranks))
    listed = ", ".join(hosts[:MAX_HOSTS]) + (" …" if len(hosts) > MAX_HOSTS else "")
    augmented = " augmented on GPUs" if event.augment_device == "gpu" else ""
    since = f", from step {event.step}" if event.step else ""
    return (
        f"attempt {event.attempt}: {counted(event.world_size, 'rank')} on {listed} "
        f"({event.device}, {event.precision}), {counted(event.num_images, 'image')}{augmented}, "
        f"{counted(event.steps_per_epoch, 'step')} of {event.batch} an epoch{since}"
    )


def _ended_line(event: AttemptEnded) -> str:
    if event.outcome == AttemptEnded.FAILED:
        return f"failed: {event.detail}"
    again = ", queued again" if event.requeued else ""
    detail = f" by {event.detail}" if event.detail and event.outcome == AttemptEnded.STOPPED else ""
    return f"{event.outcome}{detail} at step {event.step}{again}"
