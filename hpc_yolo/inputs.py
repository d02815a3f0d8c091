"""What a run learns from besides its spec: hyperparameters, the layers of its model, its dataset YAML with class names.

They are kept in the run directory when the run is submitted, and every attempt reads them there: an edited file, or
another default of a later version, does not change a run that is under way. When the run is submitted again, files of a
person's own are compared with what was kept; those that come with the package are not.

    inputs/hyperparameters.yaml      all of them: defaults, the set, hyp_overrides
    inputs/hyperparameters.own.yaml  the file that train.hyp names, where it is a person's own
    inputs/model.yaml                the model's rows; not there where the weights bring them
    inputs/dataset.yaml              with absolute paths; images and labels themselves are not kept
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import msgspec
import yaml

from hpc_yolo.data.dataset import Dataset, dataset_content, load_dataset
from hpc_yolo.errors import RunError, SpecError
from hpc_yolo.fileio import make_folder, sync_folder, write_atomic
from hpc_yolo.resources import shipped_dataset
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.hyperparameters import (
    load_hyperparameters,
    own_hyperparameter_file,
    read_hyperparameters,
    written_hyperparameters,
)
from hpc_yolo.spec.model_config import load_config
from hpc_yolo.spec.problems import format_problems
from hpc_yolo.spec.schema import Hyperparameters, Spec

HYPERPARAMETERS = "hyperparameters.yaml"
OWN_HYPERPARAMETERS = "hyperparameters.own.yaml"
MODEL = "model.yaml"
DATASET = "dataset.yaml"
COMPARED_IN_DATASET = ("train", "val", "names", "kpt_shape", "task")
HEADER = "# What this run learns from: kept when it was submitted, and read by every attempt.\n"
MAX_SHOWN = 80  # characters of a value in a message


@dataclass(frozen=True)
class RunInputs:
    """What a run learns from.

    Attributes:
        model: rows, multiples and anchors; None where the weights bring them.
        digest: one short word for all of it but paths, for checkpoints.
    """

    hyperparameters: Hyperparameters
    model: dict[str, Any] | None
    dataset: Dataset
    digest: str


def keep_inputs(run: RunDirectory, spec: Spec) -> None:
    """Copy what `spec` learns from into the directory of `run`, unless copies are there already.

    Raises:
        SpecError, DataError: a file that the spec names cannot be read.
        RunError: the copies cannot be written.
    """
    store_inputs(run, gather_inputs(run, spec))


def gather_inputs(run: RunDirectory, spec: Spec) -> dict[str, str]:
    """Return the text of each file to be kept for `run`, by its name; none where they are kept already.

    Raises:
        SpecError, DataError: a file that the spec names cannot be read.
        RunError: the run has a directory of that name which holds something else.
    """
    if are_kept(run):
        return {}
    if run.inputs.exists():
        raise RunError(
            f"{run.inputs} is there and was not made for a run",
            hint="give the run another name with --set name=NAME, or another place with --set output=DIR",
        )
    hyp = msgspec.to_builtins(load_hyperparameters(spec.train))
    contents = {HYPERPARAMETERS: hyp, DATASET: dataset_content(Path(spec.data))}
    if (own := own_hyperparameter_file(spec.train)) is not None:
        contents[OWN_HYPERPARAMETERS] = written_hyperparameters(own)
    if spec.model:
        contents[MODEL] = load_config(spec.model)
    return {name: HEADER + _yaml(content) for name, content in contents.items()}


def store_inputs(run: RunDirectory, files: dict[str, str]) -> None:
    """Write what `gather_inputs` gave, all of it or nothing.

    Raises:
        RunError: the file system refuses.
    """
    if not files:
        return
    folder = run.path / f".inputs.{secrets.token_hex(4)}"
    try:
        make_folder(folder)
        try:
            for name, text in files.items():
                write_atomic(folder / name, text)
            folder.rename(run.inputs)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        sync_folder(run.path)
    except OSError as error:
        raise RunError(f"{run.inputs}: cannot be written: {error.strerror}") from error


def are_kept(run: RunDirectory) -> bool:
    """Return whether `run` has its own copies; runs of earlier versions have none."""
    found = [path for path in (run.inputs / HYPERPARAMETERS, run.inputs / DATASET) if path.is_file()]
    return bool(found) and (run.exists or found[0].read_text(errors="replace").startswith(HEADER))


def read_inputs(run: RunDirectory, spec: Spec) -> RunInputs:
    """Return what `keep_inputs` has kept for `run`.

    Raises:
        RunError: a copy is damaged or gone.
        DataError: the dataset's images are not there.
    """
    try:
        hyp, problems = read_hyperparameters(run.inputs / HYPERPARAMETERS)
        if problems:
            raise SpecError(format_problems(problems))
        values = yaml.safe_load((run.inputs / HYPERPARAMETERS).read_text(encoding="utf-8"))
        model = load_config(run.inputs / MODEL) if spec.model else None
    except (SpecError, OSError, UnicodeError) as error:
        raise RunError(
            f"{run.inputs}: cannot be read: {error}",
            hint="bring it back; or remove it, and the files that the spec names now are kept in its place",
        ) from error
    dataset = load_dataset(run.inputs / DATASET, single_cls=spec.train.single_cls)
    said = repr((sorted(values.items()), model, dataset.names, dataset.kpt_shape))
    digest = hashlib.sha256(said.encode(errors="backslashreplace")).hexdigest()[:16]
    return RunInputs(hyp, model, dataset, digest)


def dataset_yaml(run: RunDirectory, spec: Spec) -> Path:
    """Return the dataset YAML of a run: the copy in its directory, or for a run without one the file itself."""
    kept = run.inputs / DATASET
    return kept if kept.is_file() else Path(spec.data)


def model_of(run: RunDirectory, spec: Spec) -> str:
    """Return the model of a run for `load_config`: the copy in its directory, or what the spec says."""
    kept = run.inputs / MODEL
    return str(kept) if kept.is_file() else spec.model


def changed_inputs(run: RunDirectory, spec: Spec) -> list[str]:
    """Return what a person's own files say now that they did not say when `run` was submitted, a phrase each.

    A file that is gone has not changed: the run goes on with its copy.

    Raises:
        SpecError, DataError: a file cannot be read.
    """
    changed: list[str] = []
    for label, file, kept, written in _compared(run, spec):
        was, is_now = dict(_flat(kept)), dict(_flat(written))
        for name in [*was, *(name for name in is_now if name not in was)]:
            if was.get(name) != is_now.get(name):
                before, now = (str(values.get(name, "not there")) for values in (was, is_now))
                at = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False)))
                changed.append(f"{label} {name} in {file}: {_shown(before, at)} -> {_shown(now, at)}")
    return changed


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def _compared(run: RunDirectory, spec: Spec) -> Iterator[tuple[str, Path, Any, Any]]:
    """(what it is, a person's own file, what was kept of it, what it says now) of each file that is still there."""
    kept, own = run.inputs / OWN_HYPERPARAMETERS, own_hyperparameter_file(spec.train)
    if own is not None and own.is_file() and kept.is_file():
        yield "hyperparameter", own, written_hyperparameters(kept), written_hyperparameters(own)
    kept, rows = run.inputs / MODEL, Path(spec.model)
    if spec.model and rows.is_file() and kept.is_file():
        yield "model", rows, load_config(kept), load_config(rows)
    kept, data = run.inputs / DATASET, Path(spec.data)
    if shipped_dataset(data.name) != data and data.is_file() and kept.is_file():
        yield "data", data, _learned_from(dataset_content(kept)), _learned_from(dataset_content(data))


def _learned_from(dataset: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in dataset.items() if name in COMPARED_IN_DATASET}


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything in `values`, the items of its lists with their index."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list):
            yield from ((f"{name}[{index}]", item) for index, item in enumerate(value))
        else:
            yield name, value


def _shown(text: str, at: int) -> str:
    """Return `text`, or of a long one the part around `at`, where it begins to differ from the other value."""
    first = max(0, min(at - MAX_SHOWN // 2, len(text) - MAX_SHOWN))
    last = first + MAX_SHOWN
    return f"{'… ' if first else ''}{text[first:last]}{' …' if last < len(text) else ''}"
