"""The values of the trials of a search: `ask` for those of a trial when it starts, `tell` its result when it has ended.

Asked again for the same trial, after a requeue or on another node, `ask` returns the same values.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path

from hpc_yolo.spec.sweep_search import Range, SearchSpec, Value
from hpc_yolo.spec.varied_fields import takes_whole_numbers
from hpc_yolo.sweeps.study import Outcome, Study


def ask(search: SearchSpec, directory: Path, trial: str) -> dict[str, Value]:
    """Return the values of `trial` by dotted field; processes on several nodes may ask at the same time.

    Args:
        search: the section of the spec.
        directory: of the sweep, where the study of `tpe` is kept.
        trial: its name.

    Raises:
        RunError: the study there is of another space, or cannot be used.
        InstallationError: Optuna is not installed.
    """
    values = random_values(search, trial) if search.method == "random" else Study(search, directory).ask(trial)
    return {name: _rounded(value, search.ranges[name]) for name, value in values.items()}


def untold(search: SearchSpec, directory: Path) -> list[str]:
    """Return the names of the trials whose values were drawn by `tpe` and whose end is not recorded yet.

    Before a submission it shows whether the search can run here.

    Raises:
        RunError: the study in `directory` is of another space, or cannot be used.
        InstallationError: Optuna is not installed.
    """
    return Study(search, directory).untold() if search.method == "tpe" else []


def tell(search: SearchSpec, directory: Path, outcomes: Mapping[str, Outcome]) -> None:
    """Record how trials have ended; those whose end is recorded, and those that were never asked for, are skipped.

    Args:
        search: the section of the spec.
        directory: of the sweep.
        outcomes: by the name of the trial.

    Raises:
        RunError: the study there is of another space, or cannot be used.
        InstallationError: Optuna is not installed.
    """
    if search.method == "tpe" and outcomes:
        Study(search, directory).tell(outcomes)


def random_values(search: SearchSpec, trial: str) -> dict[str, Value]:
    """Return values that follow from the seed of `search` and the name of the trial alone."""
    generator = random.Random(f"{search.seed} {trial}")
    return {name: _draw(name, kind, generator) for name, kind in search.ranges.items()}


def _rounded(value: Value, kind: Range | list[Value]) -> Value:
    """Return a number drawn from a range with five significant digits, as a person would write it."""
    if not isinstance(value, float) or not isinstance(kind, Range):
        return value
    return min(max(float(f"{value:.5g}"), kind.low), kind.high)


def _draw(name: str, kind: Range | list[Value], generator: random.Random) -> Value:
    if isinstance(kind, list):
        return generator.choice(kind)
    low, high, step = kind.low, kind.high, kind.step
    is_whole = takes_whole_numbers(name)
    if kind.log:
        half = 0.5 if is_whole else 0.0  # so that the lowest and the highest are as likely as their neighbours
        drawn = math.exp(generator.uniform(math.log(low - half), math.log(high + half)))
        drawn = min(max(round(drawn) if is_whole else drawn, low), high)
    elif step is not None or is_whole:
        step = step or 1
        drawn = low + step * generator.randint(0, math.floor((high - low) / step + 1e-9))
    else:
        drawn = generator.uniform(low, high)
    return int(drawn) if is_whole else float(drawn)
