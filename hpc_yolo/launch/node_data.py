"""Which datasets can be checked where a run is submitted, and which only on the nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hpc_yolo.core.variables import is_of_job, variables_in
from hpc_yolo.data.dataset import dataset_content, load_dataset, paths_in
from hpc_yolo.data.dataset_source import has_copy, source_of_run
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.paths import has_variables
from hpc_yolo.spec.schema import ClusterSpec, Spec


class CheckedDataset(NamedTuple):
    """What is known about a dataset before the submission.

    Attributes:
        num_classes: None where the dataset YAML itself exists on the nodes only.
        messages: findings, and what is left to the nodes, a sentence each.
    """

    num_classes: int | None
    messages: tuple[str, ...]


def variables_of_nodes(written: str, cluster: ClusterSpec, environ: Mapping[str, str], *, for_slurm: bool) -> list[str]:
    """Return the variables in the path `written` whose values only a task of the job has."""
    if not has_variables(written):
        return []
    setup = "\n".join(cluster.setup_lines) if for_slurm else ""
    return [
        name
        for name in variables_in(written)
        if name in cluster.env
        or (for_slurm and (is_of_job(name) or name not in environ or re.search(rf"\b{name}\b", setup)))
    ]


def check_dataset(run: RunDirectory, spec: Spec, environ: Mapping[str, str], *, for_slurm: bool) -> CheckedDataset:
    """Check the dataset of `spec` as far as that is possible on this machine.

    Raises:
        DataError: the dataset or one of its splits does not exist.
    """

    def of_nodes(path: str) -> list[str]:
        return variables_of_nodes(path, spec.cluster, environ, for_slurm=for_slurm)

    written = next(filter(of_nodes, _needed_for_names(spec)), None)
    if written is not None and not has_copy(run):
        return CheckedDataset(None, (_left(written, of_nodes(written)),))
    source = source_of_run(run, spec.data)
    content = dataset_content(source)
    written = next((path for path in (*spec.data.paths, *paths_in(content)) if of_nodes(path)), None)
    if written is not None:
        path = written if written in spec.data.paths else f"{written} in {spec.data.path}"
        return CheckedDataset(len(content["names"]), (_left(path, of_nodes(written)),))
    dataset = load_dataset(source)
    return CheckedDataset(dataset.num_classes, dataset.messages)


def _left(path: str, names: list[str]) -> str:
    listed = ", ".join(dict.fromkeys(names))
    return f"data: {path} is not checked here, since {listed} is set in the job; each node checks it before training"


def names_file_of_nodes(spec: Spec, environ: Mapping[str, str], *, for_slurm: bool) -> bool:
    """Return True if the classes of `spec` are known on the nodes only: its dataset YAML, or its label files."""
    return any(variables_of_nodes(path, spec.cluster, environ, for_slurm=for_slurm) for path in _needed_for_names(spec))


def _needed_for_names(spec: Spec) -> list[str]:
    """Return the paths of the files that have the names of classes: none where the spec itself has them."""
    data = spec.data
    return [] if data.names else data.label_paths if data.is_inline else [str(Path(data.path))]
