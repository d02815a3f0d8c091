"""How training scales over ranks: a table from the journals of runs that differ in their number of ranks alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import msgspec

from hpc_yolo.runs.events import AnyEvent, AttemptStarted, EpochEnded, Evaluated, StepLogged

GRADIENT_BYTES = 4  # of each parameter, in single precision


class ScalingRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one run measured.

    Attributes:
        batch: images of a step over all ranks.
        mem_bytes: the most that a rank used: of its GPU, or resident where it has none.
        train_s: of an epoch without its evaluation, the median without the first one of the attempt.
        val_s: of an evaluation, the median; None without one.
        step_s: of a step; data_wait_s is the part in which the slowest rank waited for images.
        num_epochs: that were measured.
    """

    ranks: int
    nodes: int
    device: str
    batch: int
    num_images: int
    mem_bytes: int
    train_s: float
    val_s: float | None
    step_s: float
    data_wait_s: float
    num_epochs: int

    @property
    def images_per_s(self) -> float:
        """Training images a second over all ranks."""
        return self.batch / self.step_s

    @property
    def busy_s(self) -> float:
        """Time of a step in which no rank waits for images."""
        return max(self.step_s - self.data_wait_s, 0.0)


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """A row beside the first one, that with the fewest ranks, and beside what arithmetic allows.

    Attributes:
        ideal_images_per_s: the first row's, in proportion to the ranks.
        efficiency: images a second over the ideal.
        communication: fraction of a step that it takes more than the first row's for as many images on each rank, waits
            for images left out: all-reduce, and waits for slower ranks.
        data_wait, validation: fraction of a step waiting for images; of an epoch with its evaluation, for that.
        ring_bytes: that each rank sends for the gradients of a step in a ring: 2 (n - 1) / n of them.
        limit_images_per_s: with the first row's step and the ring at the given bandwidth, not overlapped; None without.
    """

    row: ScalingRow
    ideal_images_per_s: float
    efficiency: float
    communication: float
    data_wait: float
    validation: float | None
    ring_bytes: float
    limit_images_per_s: float | None = None


def scaling_row(events: Sequence[AnyEvent]) -> ScalingRow | None:
    """Return what a run measured in the attempts like its newest one; None where no epoch of them has ended."""
    starts = {event.attempt: event for event in events if isinstance(event, AttemptStarted)}
    if not starts:
        return None
    newest = starts[max(starts)]
    alike = [start for start in starts.values() if (start.world_size, start.batch) == (newest.world_size, newest.batch)]
    first, later = list[_Epoch](), list[_Epoch]()
    for start in alike:
        epochs = [_Epoch(start, event) for event in events if _is_epoch_of(event, start.attempt)]
        first += epochs[:1]  # in which caches are filled, and of which an earlier attempt may have done a part
        later += epochs[1:]
    counted = later or first
    if not counted:
        return None
    numbers = {(epoch.start.attempt, epoch.event.epoch) for epoch in counted}
    own = [event for event in events if event.attempt in {start.attempt for start in alike}]
    steps = [event for event in own if isinstance(event, StepLogged)]
    waits = [max(step.rank_data_wait_s, default=0.0) for step in steps if (step.attempt, step.epoch) in numbers]
    evaluations = [event.seconds for event in own if isinstance(event, Evaluated) and not event.is_aside]
    step_s = statistics.median(epoch.step_s for epoch in counted)
    return ScalingRow(
        ranks=newest.world_size,
        nodes=newest.num_nodes,
        device=newest.device,
        batch=newest.batch,
        num_images=newest.num_images,
        mem_bytes=max((used for step in steps for used in step.rank_mem_bytes), default=0),
        train_s=step_s * newest.steps_per_epoch,
        val_s=statistics.median(evaluations) if evaluations else None,
        step_s=step_s,
        data_wait_s=statistics.fmean(waits) if waits else 0.0,
        num_epochs=len(counted),
    )


@dataclass(frozen=True)
class _Epoch:
    """The part of an epoch that one attempt has trained, to its end."""

    start: AttemptStarted
    event: EpochEnded

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        begin = max(self.start.step, self.event.epoch * self.start.steps_per_epoch)
        return self.event.seconds / max(self.event.step - begin, 1)


def _is_epoch_of(event: AnyEvent, attempt: int) -> TypeGuard[EpochEnded]:
    return isinstance(event, EpochEnded) and event.attempt == attempt


def scaling_table(
    rows: Sequence[ScalingRow], num_parameters: int, bandwidth_bytes_per_s: float | None = None
) -> list[Scaling]:
    """Return `rows` in ascending order of ranks, beside the one with the fewest ranks and the limits.

    Args:
        rows: of runs of the same spec.
        num_parameters: of the model; each has a gradient.
        bandwidth_bytes_per_s: between neighbours in a ring of ranks; None where it is not known.
    """
    ordered = sorted(rows, key=lambda row: row.ranks)
    return [_beside(row, ordered[0], num_parameters, bandwidth_bytes_per_s) for row in ordered]


def _beside(row: ScalingRow, first: ScalingRow, num_parameters: int, bandwidth: float | None) -> Scaling:
    images = (row.batch / row.ranks) / (first.batch / first.ranks)  # on each rank, over those of the first row
    alone_s = first.busy_s * images
    ring_bytes = 2 * (row.ranks - 1) / row.ranks * num_parameters * GRADIENT_BYTES
    ideal = first.images_per_s / first.ranks * row.ranks
    return Scaling(
        row=row,
        ideal_images_per_s=ideal,
        efficiency=row.images_per_s / ideal,
        communication=max(row.busy_s - alone_s, 0.0) / row.step_s,
        data_wait=min(row.data_wait_s / row.step_s, 1.0),
        validation=None if row.val_s is None else row.val_s / (row.train_s + row.val_s),
        ring_bytes=ring_bytes,
        limit_images_per_s=None if not bandwidth else row.batch / (alone_s + ring_bytes / bandwidth),
    )
