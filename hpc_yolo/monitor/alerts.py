"""Problems of a run that need attention: rules over its record, each a line of text. Nothing is read here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from hpc_yolo.core.units import short_bytes, short_time
from hpc_yolo.monitor.run_record import LAST_STEPS, RunRecord
from hpc_yolo.monitor.trend import median
from hpc_yolo.resilience.stage_state import StageStatus
from hpc_yolo.runs.event_lines import replaced_text
from hpc_yolo.runs.events import FORMAT_VERSION, Cause, StepLogged

STALL_S = 300.0
STALL_INTERVALS = 10.0  # a run that logs seldom may pause for as many of its own intervals
DATA_WAIT_FRACTION = 0.2
STRAGGLER_FRACTION = 0.2  # of a step, by which one rank waits longer for its data than the others
SLOW_RANK = 1.3  # times as long as the others', in all of the last steps
SLOWDOWN = 0.5
SLOWDOWN_POINTS = 8
MANY_LOSSES = 3
FULL_FRACTION = 0.97
OLD_CHECKPOINT_S = 900.0
OLD_CHECKPOINT_INTERVALS = 5.0  # of the run's own
FLAT_POINTS = 32
FLAT_CHANGE = 0.002  # of the loss, between the third and the last quarter of its curve
FLAT_UNTIL = 0.5  # of the training: a loss is flat towards its end
# Kinds of problems that a person must look at; the others say that a run could be faster.
NEEDS_PERSON = ("loss", "pause", "checkpoint", "flat loss", "speed", "losses")
LOSING_CAUSES = (Cause.KILLED, Cause.STALLED, Cause.NODE_FAILURE)


def problems_of(record: RunRecord, *, is_running: bool, now: float) -> list[str]:
    """Return the problems of a run, the worst first; [] where there is none.

    Args:
        is_running: it trains at `now` (seconds since 1970), as far as is known.
    """
    found = problems_by_kind(record, is_running=is_running, now=now)
    return [problem for problems in found.values() for problem in problems]


def problems_by_kind(record: RunRecord, *, is_running: bool, now: float) -> dict[str, list[str]]:
    """Return the problems of a run, as `problems_of`, by their kind; a kind may have none."""
    found = {"version": _newer_version(record), "loss": _bad_loss(record)}
    if is_running:
        found |= {"pause": _stall(record, now), "checkpoint": _old_checkpoint(record, now)}
        found |= {"flat loss": _flat_loss(record), "speed": _speed(record)}
        if record.step is not None:
            found |= {"ranks": rank_problems(record.last_steps), "memory": _memory(record)}
    found["images"] = [replaced_text(event) for event in record.replaced.values()]
    return found | {"losses": _losses(record)}


def stage_problems(stages: Iterable[StageStatus]) -> list[str]:
    """Return a problem for each stage that has ended without success."""
    return [f"stage {one.name} {one.state}: {one.detail}" for one in stages if one.is_open]


def rank_problems(last_steps: Sequence[StepLogged]) -> list[str]:
    """Return problems in the newest values of the ranks: all wait for data, or one holds up the others."""
    if not last_steps:
        return []
    step = last_steps[-1]
    found = _waiting_ranks(step.rank_data_wait_s, max(step.rank_step_s, default=0.0))
    if (slow := slow_rank(last_steps)) is not None:
        found.append(f"rank {slow} computes {_slowness(step.rank_forward_s)[1]:.1f} times as long as the others")
    return found


def slow_rank(last_steps: Sequence[StepLogged]) -> int | None:
    """Return the rank whose forward pass takes longest in all of `last_steps`, by far; None where there is none."""
    if len(last_steps) < LAST_STEPS or any(len(step.rank_forward_s) < 2 for step in last_steps):
        return None
    found = [_slowness(step.rank_forward_s) for step in last_steps]
    ranks = {rank for rank, _ in found}
    return ranks.pop() if len(ranks) == 1 and all(times >= SLOW_RANK for _, times in found) else None


def _slowness(forward_s: Sequence[float]) -> tuple[int, float]:
    """Return (the slowest rank, how many times as long as the others it takes)."""
    slowest = max(range(len(forward_s)), key=forward_s.__getitem__)
    others = median([*forward_s[:slowest], *forward_s[slowest + 1 :]])
    return slowest, forward_s[slowest] / others if others > 0 else 1.0


def _waiting_ranks(waits: Sequence[float], step_s: float) -> list[str]:
    if not waits or step_s <= 0:
        return []
    slowest = max(range(len(waits)), key=waits.__getitem__)
    typical = median(waits)
    if len(waits) > 1 and waits[slowest] - typical > STRAGGLER_FRACTION * step_s:
        return [f"rank {slowest} waits {waits[slowest]:.2f} s a step for data, the others {typical:.2f} s"]
    if typical > DATA_WAIT_FRACTION * step_s:
        return [f"{typical / step_s:.0%} of a step is waiting for data"]
    return []


def _newer_version(record: RunRecord) -> list[str]:
    version = FORMAT_VERSION if record.started is None else record.started.format_version
    if version <= FORMAT_VERSION:
        return []
    return [f"written by a newer version (format {version}, this one reads {FORMAT_VERSION}): some may be missing here"]


def _bad_loss(record: RunRecord) -> list[str]:
    progress = record.progress
    if progress is not None and None in progress.losses.values():
        return ["the loss is not a number"]
    return []


def _stall(record: RunRecord, now: float) -> list[str]:
    steps = record.images_per_s.steps
    interval_s = 0.0
    if record.step is not None and len(steps) > 1 and record.step.rank_step_s:
        # The last two points are a log interval apart, or more.
        interval_s = (steps[-1] - steps[-2]) * record.step.rank_step_s[0]
    pause_s = now - record.last_time
    if record.num_events and pause_s > max(STALL_S, STALL_INTERVALS * interval_s):
        return [f"no event for {short_time(pause_s)}"]
    return []


def _old_checkpoint(record: RunRecord, now: float) -> list[str]:
    """Report a checkpoint that is much older than the interval between the last two."""
    if len(record.save_times) < 2:
        return []
    before, last = record.save_times
    if now - last <= max(OLD_CHECKPOINT_S, OLD_CHECKPOINT_INTERVALS * (last - before)):
        return []
    return [f"the last checkpoint is {short_time(now - last)} old"]


def _flat_loss(record: RunRecord) -> list[str]:
    values, started = record.loss.values, record.started
    total_steps = 0 if started is None else started.epochs * started.steps_per_epoch
    if len(values) < FLAT_POINTS or record.loss.steps[-1] > FLAT_UNTIL * total_steps:
        return []
    quarter = len(values) // 4
    before, last = sum(values[-2 * quarter : -quarter]) / quarter, sum(values[-quarter:]) / quarter
    if before - last > FLAT_CHANGE * abs(before):
        return []
    since = record.loss.steps[-2 * quarter]
    return [f"the loss has not fallen since step {since}"]


def _speed(record: RunRecord) -> list[str]:
    values: Sequence[float] = record.images_per_s.values
    if len(values) < SLOWDOWN_POINTS:
        return []
    usual = median(values)
    if values[-1] < SLOWDOWN * usual and values[-2] < SLOWDOWN * usual:
        return [f"{values[-1]:.1f} img/s, usually {usual:.1f}"]
    return []


def _memory(record: RunRecord) -> list[str]:
    """Report a GPU that is almost full; memory that is reserved but free counts as used."""
    total_bytes = None if record.started is None else record.started.device_mem_bytes
    if record.step is None or not total_bytes:
        return []
    used_bytes = max(record.step.rank_mem_bytes, default=0)
    if used_bytes < FULL_FRACTION * total_bytes:
        return []
    return [f"{short_bytes(used_bytes)} of {short_bytes(total_bytes)} of a GPU's memory are used"]


def _losses(record: RunRecord) -> list[str]:
    counts = Counter({cause: record.causes[cause] for cause in LOSING_CAUSES if cause in record.causes})
    if counts.total() < MANY_LOSSES:
        return []
    return [f"lost {', '.join(f'{number} x {cause}' for cause, number in counts.most_common())}"]
