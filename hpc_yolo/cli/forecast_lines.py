"""An estimate as lines for people: `plan` prints all of them, `submit` the two that matter."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from hpc_yolo.cluster.slurm_output import parse_slurm_clock
from hpc_yolo.cluster.start_estimates import WayStart
from hpc_yolo.core.units import counted, format_time, short_bytes, short_time
from hpc_yolo.forecast.estimate import MAX_ATTEMPTS, Spread
from hpc_yolo.launch.forecast import Forecast, LearnedFrom, wall_on
from hpc_yolo.launch.plan import Plan

CLOCK = "%Y-%m-%d %H:%M"
NOW_S = 60.0  # a start within this time is at once
WORTH = 0.03  # of the time limit, that an earlier signal than needed costs


def summary_lines(plan: Plan, forecast: Forecast, num_trials: int = 1) -> Iterator[tuple[str, str]]:
    """Yield (subject, text) of the estimate and of the attempts: what matters at a submission.

    Args:
        num_trials: of a sweep, that start; the forecast is that of one.
    """
    sources = ", ".join(source.name for source in forecast.learned_from)
    hours = f"{_number(forecast.unit_hours.expected)} {forecast.unit} hours"
    yield "estimate", f"{_wall_text(forecast.wall_s)}, {hours}; measured in {sources}"
    if num_trials != 1:
        yield _sweep_line(forecast, num_trials)
    if plan.uses_slurm and plan.spec.cluster.time is not None:  # else the partition's limit counts
        yield "attempts", attempts_text(forecast)


def forecast_lines(plan: Plan, forecast: Forecast, num_trials: int = 1) -> Iterator[tuple[str, str]]:
    """Yield (subject, text) of everything that is known.

    Args:
        num_trials: of a sweep, that start; the forecast is that of one.
    """
    work = forecast.work
    steps = f"{counted(work.epochs, 'epoch')} of {counted(work.steps_per_epoch, 'step')}"
    ranks = counted(forecast.world_size, "rank")
    left = f"; {work.first_step} steps are done" if work.first_step else ""
    yield (
        "training",
        f"{steps}, {counted(forecast.num_images, 'image')} in batches of {forecast.batch} on {ranks}{left}",
    )
    for source in forecast.learned_from:
        yield "measured in", _source_text(source)
    yield "wall time", f"{_wall_text(forecast.wall_s)}, without the queue"
    hours = forecast.unit_hours
    units = counted(forecast.num_units, forecast.unit)
    yield (
        f"{forecast.unit} hours",
        f"{_number(hours.expected)} ({_number(hours.low)} to {_number(hours.high)}): {units}",
    )
    if num_trials != 1:
        yield _sweep_line(forecast, num_trials)
    if plan.uses_slurm:
        yield "attempts", attempts_text(forecast)
        yield from _requests(forecast)
    if forecast.disk_bytes is not None:
        yield "disk", f"{short_bytes(forecast.disk_bytes)} of checkpoints"
    if forecast.assumed:
        yield "not measured", "; ".join(forecast.assumed)
    for note in forecast.notes:
        yield "note", note


def _sweep_line(forecast: Forecast, num_trials: int) -> tuple[str, str]:
    hours = f"{_number(num_trials * forecast.unit_hours.expected)} {forecast.unit} hours in all"
    return "sweep", f"{counted(num_trials, 'trial')}, {hours}; the other lines are about one of them"


def attempts_text(forecast: Forecast) -> str:
    """Return the number of attempts and the time limit that it follows from."""
    if forecast.limit_s is None:
        return "1, unless the partition has a time limit"
    limit = f"time limit {format_time(forecast.limit_s)}, signal {forecast.signal_before_s} s before it"
    attempts = forecast.attempts
    if attempts is None:
        return f"it does not end: {limit}"
    number = f"{attempts.expected:.0f}"
    if attempts.high >= MAX_ATTEMPTS:
        number += " or many more"
    elif attempts.low != attempts.high:
        number += f" ({attempts.low:.0f} to {attempts.high:.0f})"
    return f"{number}: {limit}"


def way_rows(plan: Plan, forecast: Forecast, starts: Sequence[WayStart]) -> Iterator[str]:
    """Yield the lines of a table: each way to ask, when Slurm would start it, and when it would end."""
    if not starts:
        return
    width = max(len(start.way.text) for start in starts)
    is_whole = forecast.attempts is not None and forecast.attempts.expected == 1
    done = "would be done" if is_whole else "would be done, without the queue between attempts"
    yield f"\n{'request':{width}}  {'would start':16}  {'wait':12}  {done}"
    shown = [start for index, start in enumerate(starts) if index == 0 or not start.refusal]
    for start in shown:
        yield f"{start.way.text:{width}}  {_start_text(plan, forecast, start)}"
    if refused := [start.way.text for start in starts if start not in shown]:
        yield f"Slurm refuses {', '.join(refused)}"


def _start_text(plan: Plan, forecast: Forecast, start: WayStart) -> str:
    if start.refusal:
        return f"refused: {start.refusal}"
    at = None if start.start is None else parse_slurm_clock(start.start)
    if at is None:
        return "Slurm does not know when"
    wait_s = max(at - time.time(), 0.0)
    begin = datetime.fromtimestamp(at)
    if start.way.script:
        done = "not measured on this type of GPU"
    else:
        done = f"{begin + timedelta(seconds=wall_on(forecast, plan, start.way.num_nodes)):{CLOCK}}"
    return f"{begin:{CLOCK}}  {'at once' if wait_s < NOW_S else short_time(wait_s):12}  {done}"


def _requests(forecast: Forecast) -> Iterator[tuple[str, str]]:
    """Yield what to request instead, or that the request is fine."""
    suggested, needed_s, before_s = forecast.suggested, forecast.needed_signal_s, forecast.signal_before_s
    if suggested is not None:
        yield "suggestion", f"--time {format_time(suggested.seconds)}: {suggested.why}"
    if needed_s is None:
        yield "signal", "saves are not measured yet: cluster.signal_before_s stays as it is"
    elif before_s < min(needed_s, (forecast.limit_s or needed_s) // 2):
        yield "suggestion", f"--set cluster.signal_before_s={needed_s}: measured saves and steps need it"
    elif _has_more_attempts(forecast) and before_s - needed_s > WORTH * (forecast.limit_s or math.inf):
        saved = f"{short_time(before_s - needed_s)} more of training in each attempt"
        yield "suggestion", f"--set cluster.signal_before_s={needed_s}: enough for measured saves and steps; {saved}"


def _has_more_attempts(forecast: Forecast) -> bool:
    return forecast.attempts is None or forecast.attempts.expected > 1


def _source_text(source: LearnedFrom) -> str:
    whose = "this run" if source.is_own else source.path
    epochs = f"{source.num_epochs:.1f}".removesuffix(".0")
    scaled = f"; scaled: {', '.join(source.differs)}" if source.differs else ""
    return f"{source.name} ({whose}): {epochs} epochs, {counted(source.num_steps, 'step')} on {source.device}{scaled}"


def _wall_text(wall_s: Spread) -> str:
    expected, low, high = short_time(wall_s.expected), short_time(wall_s.low), short_time(wall_s.high)
    return expected if low == high else f"{expected} ({low} to {high})"


def _number(hours: float) -> str:
    """Return `hours` with about three digits."""
    return f"{hours:.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2f}"
