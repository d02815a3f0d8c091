"""Rules for `sweep.search` and `sweep.stop` that the type of one field cannot express."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hpc_yolo.core.units import counted
from hpc_yolo.spec.problems import Finding
from hpc_yolo.spec.sweep_search import Range, SearchSpec, StopSpec, Value
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.spec.varied_fields import name_findings, takes_whole_numbers, value_findings

SEARCH, STOP = "sweep.search", "sweep.stop"


def search_findings(search: SearchSpec) -> Iterator[Finding]:
    """Yield what is wrong with the space of a search."""
    if not search.ranges:
        yield Finding(f"{SEARCH}.space", "is empty", "a range or list of values for a field, or evolve")
        return
    has_problems = False
    for name, kind in search.ranges.items():
        for finding in _field_findings(name, kind):
            has_problems = True
            yield finding
    if not has_problems:
        yield from _number_findings(search)


def _field_findings(name: str, kind: Range | list[Value]) -> Iterator[Finding]:
    """Yield what is wrong with the values of one field."""
    path = f"{SEARCH}.space.{name}"
    found = list(name_findings(path, name))
    yield from found
    if isinstance(kind, Range):
        yield from _range_findings(path, kind) if found else _field_range_findings(path, name, kind)
    else:
        yield from _list_findings(path, name, kind, is_known=not found)


def _number_findings(search: SearchSpec) -> Iterator[Finding]:
    """Yield the problem of more trials than the space has combinations: two would be the same run."""
    numbers = [_num_values(name, kind) for name, kind in search.ranges.items()]
    if None in numbers or not isinstance(search.trials, int):
        return
    num_combinations = math.prod(number for number in numbers if number is not None)
    if search.trials > num_combinations:
        message = f"{search.trials} trials of a space with {counted(num_combinations, 'combination')}"
        yield Finding(f"{SEARCH}.trials", message, f"at most {num_combinations}, or all of them in sweep.grid")


def _num_values(name: str, kind: Range | list[Value]) -> int | None:
    """Return the number of values of a field; None for a range of numbers without steps, and one that is unreadable."""
    if isinstance(kind, list):
        return len(kind)
    step = kind.step or (1 if takes_whole_numbers(name) else 0)
    return int((kind.high - kind.low) / step + 1e-9) + 1 if step and is_readable(kind) else None


def stop_findings(stop: StopSpec, train: TrainSpec) -> Iterator[Finding]:
    """Yield what is wrong with a stop rule for trials that train as in `train`."""
    if train.val_every == 0:
        message = "compares evaluations, and train.val_every is 0"
        yield Finding(STOP, message, "train.val_every of at least 1, or no stop rule", ("train.val_every",))
    if stop.after >= train.epochs:
        message = f"{stop.after} epochs are over only when a trial has done all its {train.epochs}"
        yield Finding(f"{STOP}.after", message, f"under {train.epochs}", ("train.epochs",))


def _list_findings(path: str, name: str, values: list[Value], *, is_known: bool) -> Iterator[Finding]:
    if not values:
        yield Finding(path, "is an empty list", "at least one value")
    if len(set(map(repr, values))) < len(values):
        yield Finding(path, "has a value twice", "each value once")
    for value in values if is_known else ():
        yield from value_findings(path, name, value)


def _field_range_findings(path: str, name: str, kind: Range) -> Iterator[Finding]:
    """Yield what is wrong with a range for the field `name`, which may vary."""
    found = list(_range_findings(path, kind))
    yield from found
    if found or not is_readable(kind):
        return
    needs = (f"{path}.low", f"{path}.high", f"{path}.step")
    numbers = {"low": kind.low, "high": kind.high}
    if takes_whole_numbers(name):
        numbers["low + step"] = kind.low + (1 if kind.step is None else kind.step)
    for which, number in numbers.items():
        for finding in value_findings(path, name, number):
            yield Finding(path, f"{which}: {finding.message}", finding.allowed, needs)
            return


def _range_findings(path: str, kind: Range) -> Iterator[Finding]:
    """Yield what is wrong with a range by itself."""
    if not is_readable(kind):
        return  # reported when it was read
    if kind.low >= kind.high:
        yield Finding(f"{path}.high", f"{kind.high:g} is not over low, {kind.low:g}", f"over {kind.low:g}")
        return
    if kind.log and kind.low <= 0:
        yield Finding(f"{path}.low", f"{kind.low:g} has no logarithm", "over 0, or log: false")
    if kind.step is not None:
        if kind.log:
            yield Finding(f"{path}.step", "has no meaning on a logarithmic scale", "log or step")
        if not 0 < kind.step <= kind.high - kind.low:
            allowed = f"over 0, at most {kind.high - kind.low:g}"
            yield Finding(f"{path}.step", f"{kind.step:g} leaves no second value", allowed)


def is_readable(kind: Range) -> bool:
    """Return False for a range with a stand-in for a bound that is missing or is no number."""
    numbers = (kind.low, kind.high, *([] if kind.step is None else [kind.step]))
    return all(isinstance(number, (int, float)) for number in numbers)
