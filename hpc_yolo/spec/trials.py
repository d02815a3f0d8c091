"""The trials that the section `sweep` of a spec describes, each with its resolved spec, and what is wrong with them."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from hpc_yolo.spec.problems import Finding
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.search_rules import is_readable, search_findings, stop_findings
from hpc_yolo.spec.short_forms import long_name
from hpc_yolo.spec.sweep import MAX_TRIALS, SweepSpec
from hpc_yolo.spec.sweep_search import Range, SearchSpec, Value
from hpc_yolo.spec.varied_fields import OVERRIDES, name_findings, takes_whole_numbers, value_findings, varied_fields

SEED = "train.seed"
DUPLICATE = "two trials are the same run"
MAX_FINDINGS = 5  # about trials that are invalid only as a combination
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: the values that it sets, by dotted field, and its spec, which has no sweep."""

    values: Values
    spec: Spec


def trials_of(spec: Spec) -> list[Trial]:
    """Return the trials of `spec`, a loaded one: the first field of the grid varies slowest, the seed fastest.

    Those of a search have no values: they are drawn when a trial starts.
    """
    assert spec.sweep is not None
    base = msgspec.structs.replace(spec, sweep=None)
    if spec.sweep.search is not None:
        return [Trial({}, base)] * spec.sweep.search.trials
    return [Trial(values, with_values(base, values)) for values in _assignments(spec, spec.sweep)]


def sweep_findings(spec: Spec, rules: Callable[[Spec], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what is wrong with the section `sweep` of `spec`.

    Args:
        rules: yields what is wrong with the spec of a trial.
    """
    if (sweep := spec.sweep) is None:
        return
    if spec.validate == "aside":
        yield Finding("validate", "aside is not for the trials of a sweep", "in_job")
    if sweep.stop is not None:
        yield from stop_findings(sweep.stop, spec.train)
    before = list(_own_findings(sweep))
    yield from before
    if before or (sweep.search is not None and not isinstance(sweep.search.trials, int)):
        return  # the latter was reported when it was read
    if (num_trials := _num_trials(sweep)) > MAX_TRIALS:
        yield Finding("sweep", f"describes {num_trials:,} trials", f"at most {MAX_TRIALS:,}")
        return
    of_spec = {str(finding) for finding in rules(msgspec.structs.replace(spec, sweep=None))}
    yield from itertools.islice(_trial_findings(spec, of_spec, rules), MAX_FINDINGS)


def single_values(search: SearchSpec) -> Iterator[Values]:
    """Yield values of single fields that `search` may draw: each of a list, and the outer ones of a range."""
    for field, kind in search.ranges.items():
        if isinstance(kind, Range):
            if not is_readable(kind):
                continue  # reported when it was read
            step = kind.step or (1 if takes_whole_numbers(field) else 0)
            highest = kind.low + (kind.high - kind.low) // step * step if step else kind.high
            values: list[Any] = [kind.low, kind.low + step, highest]
        else:
            values = kind
        yield from ({field: value} for value in dict.fromkeys(values))


def run_key(base: Spec, values: Values) -> str:
    """Return what identifies a trial: the values that differ from those of `base`, as JSON."""
    changed = {field: value for field, value in values.items() if value != value_at(base, field)}
    return json.dumps(msgspec.to_builtins(changed), sort_keys=True)


def with_values(spec: Spec, values: Values) -> Spec:
    """Return `spec` with the `values` of a trial."""
    for field, value in values.items():
        spec = _with_value(spec, long_name(field).split("."), value)
    return spec


def _own_findings(sweep: SweepSpec) -> Iterator[Finding]:
    """Yield what is wrong with single fields and values."""
    if not (sweep.grid or sweep.variants or sweep.seeds or sweep.search):
        yield Finding("sweep", "describes no trial", "grid, variants, seeds or search")
    if sweep.search is not None:
        for field in ("grid", "variants", "seeds"):
            if getattr(sweep, field):
                yield Finding(f"sweep.{field}", "excludes search, which draws the values", "one of the two")
        yield from search_findings(sweep.search)
    yield from _seed_findings(sweep)
    for field, values in sweep.grid.items():
        where = f"sweep.grid.{field}"
        if not values:
            yield Finding(where, "has no value", "a list of values")
        if any(field in variant for variant in sweep.variants):
            yield Finding(where, "is in variants too", "one of the two")
        yield from _value_findings(where, field, values)
    for index, variant in enumerate(sweep.variants):
        for field, value in variant.items():
            yield from _value_findings(f"sweep.variants[{index}].{field}", field, [value])


def _seed_findings(sweep: SweepSpec) -> Iterator[Finding]:
    if sweep.seeds == []:
        yield Finding("sweep.seeds", "has no seed", "a list of seeds, or their number")
    if sweep.seeds and (SEED in sweep.grid or any(SEED in variant for variant in sweep.variants)):
        yield Finding("sweep.seeds", f"{SEED} is varied too", "one of the two")


def _value_findings(where: str, field: str, values: Iterable[Value]) -> Iterator[Finding]:
    refused = list(name_findings(where, field))
    yield from refused
    for value in [] if refused else values:
        yield from value_findings(where, field, value)


@functools.cache
def _kinds() -> dict[str, Any]:
    return varied_fields()


def _num_trials(sweep: SweepSpec) -> int:
    if sweep.search is not None:
        return sweep.search.trials
    seeds = len(sweep.seeds) if isinstance(sweep.seeds, list) else sweep.seeds or 1
    return math.prod(map(len, sweep.grid.values())) * max(len(sweep.variants), 1) * seeds


def _trial_findings(spec: Spec, reported: set[str], rules: Callable[[Spec], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what is wrong with trials as combinations: two that are the same, and rules that one breaks.

    Of a search, whose combinations are not known, the values of single fields are tried.

    Args:
        reported: the findings that are known already, as text; each is yielded once.
    """
    if spec.sweep is None:
        return
    if spec.sweep.search is not None:
        base = msgspec.structs.replace(spec, sweep=None)
        trials = [Trial(values, with_values(base, values)) for values in single_values(spec.sweep.search)]
    else:
        trials = trials_of(spec)
        yield from _duplicates(spec, trials)
    for trial in trials:
        for finding in rules(trial.spec):
            if str(finding) not in reported:
                reported.add(str(finding))
                message = f"the trial with {shown(trial.values)}: {finding.field}: {finding.message}"
                yield Finding("sweep", message, finding.allowed, (finding.field, *finding.needs))


def _duplicates(spec: Spec, trials: Iterable[Trial]) -> Iterator[Finding]:
    """Yield the first two trials that are the same run."""
    keys: set[str] = set()
    for trial in trials:
        key = run_key(spec, trial.values)
        if key in keys:
            yield Finding("sweep", f"{DUPLICATE}: {shown(trial.values)}", "each value once")
            return
        keys.add(key)


def shown(values: Values) -> str:
    """Return the values of a trial in one line, with the last part of each field."""
    return ", ".join(f"{field.rpartition('.')[2]}={as_text(value)}" for field, value in values.items())


def as_text(value: Any) -> str:
    """Return a value of a trial as it is written in a spec."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _assignments(spec: Spec, sweep: SweepSpec) -> Iterator[Values]:
    """Yield the values of each trial."""
    grid = [[{field: _typed(field, value)} for value in values] for field, values in sweep.grid.items()]
    variants = [{field: _typed(field, value) for field, value in variant.items()} for variant in sweep.variants]
    seeds = sweep.seeds
    if isinstance(seeds, int):
        seeds = [spec.train.seed + number for number in range(seeds)]
    parts = [*grid, variants or [{}], [{SEED: seed} for seed in seeds or []] or [{}]]
    for combined in itertools.product(*parts):
        yield {field: value for part in combined for field, value in part.items()}


def _typed(field: str, value: Value) -> Any:
    """Return `value` as the type of its field: 1 is 1.0 for a field of numbers."""
    return msgspec.convert(value, _kinds()[field])


def value_at(spec: Spec, field: str) -> Any:
    """Return the value of a dotted field that a trial may set."""
    if field.startswith(f"{OVERRIDES}."):
        return spec.train.hyp_overrides.get(field.removeprefix(f"{OVERRIDES}."))
    return functools.reduce(getattr, long_name(field).split("."), spec)


def _with_value(section: Any, parts: list[str], value: Any) -> Any:
    name, *rest = parts
    if isinstance(section, dict):
        return {**section, name: value}
    return msgspec.structs.replace(
        section, **{name: _with_value(getattr(section, name), rest, value) if rest else value}
    )
