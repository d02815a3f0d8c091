"""The inputs of a run besides its spec: hyperparameters, the layers of its model, its dataset YAML with class names.

They are copied into the run directory when the run is submitted, and every attempt reads the copies: an edited file, or
another default of a later version, does not change a running training. When the run is submitted again, the user's own
files are compared with the copies; files of the package are not.

    inputs/hyperparameters.yaml      all of them: defaults, the set, hyp_overrides
    inputs/hyperparameters.own.yaml  the file that train.hyp names, if it is the user's own
    inputs/model.yaml                the model's layers; absent if the weights have them
    inputs/dataset.yaml              with absolute paths, or variables where nodes have copies of the dataset; images
                                     and labels themselves are not copied
    inputs/images-<split>.npz        written by an attempt: the index of its images; see `training.kept_images`
"""

from __future__ import annotations

import errno
import hashlib
import platform
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import msgspec
import yaml

from hpc_yolo.core.errors import DataError, NameTakenError, RunError, SpecError
from hpc_yolo.core.files import make_directory, sync_directory, write_atomic
from hpc_yolo.core.package_data import shipped_dataset
from hpc_yolo.data.dataset import Dataset, dataset_content, load_dataset
from hpc_yolo.data.dataset_source import (
    DATASET,
    has_copy,
    is_here,
    is_of_each_node,
    readable_dataset,
    source_of,
    source_of_run,
)
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.hyperparameters import (
    load_hyperparameters,
    own_hyperparameter_file,
    read_hyperparameters,
    written_hyperparameters,
)
from hpc_yolo.spec.model_config import load_config
from hpc_yolo.spec.paths import has_variables
from hpc_yolo.spec.problems import format_problems
from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.spec.schema import Spec

HYPERPARAMETERS = "hyperparameters.yaml"
OWN_HYPERPARAMETERS = "hyperparameters.own.yaml"
MODEL = "model.yaml"
COMPARED_IN_DATASET = ("train", "val", "names", "kpt_shape", "task", "format", "images", "annotations", "difficult")
HEADER = "# Inputs of this run: copied when it was submitted, and read by every attempt.\n"
STAGING = "copy it in cluster.setup, which runs on the first node; srun --ntasks-per-node=1 COMMAND runs on every node"
MAX_SHOWN = 80  # characters of a value in a message


@dataclass(frozen=True)
class RunInputs:
    """The inputs of a run.

    Attributes:
        model: layers, multiples and anchors; None if the weights have them.
        digest: a short hash of all inputs but paths, for checkpoints.
    """

    hyperparameters: Hyperparameters
    model: dict[str, Any] | None
    dataset: Dataset
    digest: str


def keep_inputs(run: RunDirectory, spec: Spec) -> None:
    """Copy the inputs of `spec` into the directory of `run`, unless it has copies.

    Raises:
        SpecError, DataError: a file that the spec names cannot be read.
        RunError: the copies cannot be written.
    """
    store_inputs(run, gather_inputs(run, spec))


def gather_inputs(run: RunDirectory, spec: Spec, *, with_dataset: bool = True) -> dict[str, str]:
    """Return the text of each file to be copied for `run`, by its name; none if it has copies.

    Args:
        with_dataset: copy the dataset YAML too. One that exists on the nodes only is copied by the first attempt.

    Raises:
        SpecError, DataError: a file that the spec names cannot be read.
        RunError: the run has a directory of that name with other content.
    """
    if are_kept(run):
        is_missing = with_dataset and any(map(has_variables, spec.data.paths)) and not has_copy(run)
        return {DATASET: HEADER + _yaml(dataset_content(source_of(spec.data)))} if is_missing else {}
    if run.inputs.exists():
        raise RunError(
            f"{run.inputs} exists and was not made for a run",
            hint="give the run another name with --set name=NAME, or another directory with --set output=DIR",
        )
    hyp = msgspec.to_builtins(load_hyperparameters(spec.train, spec.model))
    contents = {HYPERPARAMETERS: hyp}
    if with_dataset:
        contents[DATASET] = dataset_content(source_of(spec.data))
    if (own := own_hyperparameter_file(spec.train)) is not None:
        contents[OWN_HYPERPARAMETERS] = written_hyperparameters(own)
    if spec.model:
        contents[MODEL] = load_config(spec.model)
    return {name: HEADER + _yaml(content) for name, content in contents.items()}


def store_inputs(run: RunDirectory, files: dict[str, str]) -> None:
    """Write the files that `gather_inputs` returned, all or none, or a single one beside those that exist.

    Raises:
        NameTakenError: another command has written them since `gather_inputs` found none.
        RunError: they cannot be written.
    """
    if not files:
        return
    directory = run.path / f".inputs.{secrets.token_hex(4)}"
    try:
        if files.keys() == {DATASET}:
            write_atomic(run.inputs / DATASET, files[DATASET])
            return
        make_directory(directory)
        try:
            for name, text in files.items():
                write_atomic(directory / name, text)
            directory.rename(run.inputs)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        sync_directory(run.path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise NameTakenError(f"{run.path}: another command submits this run", hint="submit it again") from error
        raise RunError(f"{run.inputs}: cannot be written: {error.strerror}") from error


def are_kept(run: RunDirectory) -> bool:
    """Return whether `run` has copies of its inputs."""
    found = [path for path in (run.inputs / HYPERPARAMETERS, run.inputs / DATASET) if path.is_file()]
    return bool(found) and (run.exists or found[0].read_text(errors="replace").startswith(HEADER))


def read_inputs(run: RunDirectory, spec: Spec) -> RunInputs:
    """Return the inputs that `keep_inputs` has copied for `run`.

    Raises:
        RunError: a copy is damaged or missing.
        DataError: a directory or list of images does not exist.
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
            hint="restore it; or remove it, and the files that the spec names now are copied instead",
        ) from error
    dataset = load_dataset(run.inputs / DATASET, single_cls=spec.train.single_cls)
    content = repr((sorted(values.items()), model, dataset.names, dataset.kpt_shape))
    digest = hashlib.sha256(content.encode(errors="backslashreplace")).hexdigest()[:16]
    return RunInputs(hyp, model, dataset, digest)


def require_dataset_of_node(run: RunDirectory, spec: Spec) -> None:
    """Check that the dataset of `run` exists on this node, which may have a copy of its own.

    Raises:
        DataError: it does not; the message names the node.
    """
    try:
        if is_of_each_node(spec.data):
            load_dataset(source_of(spec.data))
        load_dataset(source_of_run(run, spec.data))
    except DataError as error:
        node = platform.node()
        message = error.message if node in error.message else f"{error.message} on {node}"
        raise DataError(message, hint=STAGING if is_of_each_node(spec.data) else error.hint) from None


def require_same_dataset(run: RunDirectory, spec: Spec) -> None:
    """Check that the dataset YAML of this node, if it has one of its own, is the one that `run` has a copy of.

    Raises:
        DataError: it differs; the message names the node.
    """
    if not is_of_each_node(spec.data):
        return
    changes = [change for change in changed_inputs(run, spec) if change.startswith("data ")]
    if changes:
        more = f"; and {len(changes) - 1} more" if len(changes) > 1 else ""
        raise DataError(
            f"the dataset on {platform.node()} is not that of the run ({changes[0]}{more})",
            hint=f"the run continues with the copy in {run.inputs}: stage the same dataset on every node",
        )


def model_of(run: RunDirectory, model: str) -> str:
    """Return the model of a run for `load_config`: the copy in its directory, or `model`."""
    kept = run.inputs / MODEL
    return str(kept) if kept.is_file() else model


def changed_inputs(run: RunDirectory, spec: Spec) -> list[str]:
    """Return the changes of the user's own files since `run` was submitted, a phrase each.

    A missing file is no change: the run continues with its copy.

    Raises:
        SpecError, DataError: a file cannot be read.
    """
    changed: list[str] = []
    for label, file, kept, written in _compared(run, spec):
        was, is_now = dict(_flat(kept)), dict(_flat(written))
        for name in [*was, *(name for name in is_now if name not in was)]:
            if was.get(name) != is_now.get(name):
                before, now = (str(values.get(name, "not set")) for values in (was, is_now))
                at = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False)))
                changed.append(f"{label} {name} in {file}: {_shown(before, at)} -> {_shown(now, at)}")
    return changed


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def _compared(run: RunDirectory, spec: Spec) -> Iterator[tuple[str, Path, Any, Any]]:
    """Yield (kind, the user's own file, the content of its copy, its content now) of each file that exists."""
    kept, own = run.inputs / OWN_HYPERPARAMETERS, own_hyperparameter_file(spec.train)
    if own is not None and own.is_file() and kept.is_file():
        yield "hyperparameter", own, written_hyperparameters(kept), written_hyperparameters(own)
    kept, model = run.inputs / MODEL, Path(spec.model)
    if spec.model and model.is_file() and kept.is_file():
        yield "model", model, load_config(kept), load_config(model)
    kept, data = run.inputs / DATASET, None if spec.data.is_inline else readable_dataset(spec.data.path)
    if has_copy(run) and is_here(spec.data) and (data is None or shipped_dataset(data.name) != data):
        now = dataset_content(source_of(spec.data))
        yield "data", data or Path("the spec"), _training_part(dataset_content(kept)), _training_part(now)


def _training_part(dataset: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in dataset.items() if name in COMPARED_IN_DATASET}


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of everything in `values`, the items of its lists with their index."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list):
            yield from ((f"{name}[{index}]", item) for index, item in enumerate(value))
        else:
            yield name, value


def _shown(text: str, at: int) -> str:
    """Return `text`, or the part of a long one around `at`, where the other value first differs."""
    first = max(0, min(at - MAX_SHOWN // 2, len(text) - MAX_SHOWN))
    last = first + MAX_SHOWN
    return f"{'… ' if first else ''}{text[first:last]}{' …' if last < len(text) else ''}"
