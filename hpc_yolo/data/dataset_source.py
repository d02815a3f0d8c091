"""The dataset of a spec: a dataset YAML, what the section `data` itself says, or the copy that a run has."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.dataset import InlineDataset
from hpc_yolo.data.dataset_paths import dataset_file, differs_between_nodes, path_here
from hpc_yolo.data.files import exists, is_file
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.data import DataSpec

DATASET = "dataset.yaml"  # among the inputs of a run
DatasetSource = Path | InlineDataset


def source_of(data: DataSpec) -> DatasetSource:
    """Return the dataset that the section `data` of a spec describes, as `load_dataset` takes it."""
    if not data.is_inline:
        return Path(data.path)
    content = {key: value for key in DataSpec.INLINE if (value := getattr(data, key)) != getattr(DataSpec(), key)}
    return InlineDataset("data", {"path": str(PurePosixPath(data.label_paths[0]).parent), **content})


def source_of_run(run: RunDirectory, data: DataSpec) -> DatasetSource:
    """Return the dataset of a run: the copy in its directory, or for a run without one that of its section `data`."""
    return run.inputs / DATASET if has_copy(run) else source_of(data)


def has_copy(run: RunDirectory) -> bool:
    """Return True if `run` has a copy of its dataset YAML."""
    return (run.inputs / DATASET).is_file()


def is_here(data: DataSpec) -> bool:
    """Return True if the dataset YAML, or the files of labels of all splits, exist on this machine."""
    if not data.is_inline:
        return readable_dataset(data.path) is not None
    try:
        return all(exists(path_here(path)) for path in data.label_paths)
    except DataError:  # a variable is not set
        return False


def is_of_each_node(data: DataSpec) -> bool:
    """Return True if each node may have a dataset YAML, or files of labels and images, of its own."""
    return any(map(differs_between_nodes, data.paths))


def readable_dataset(data: str) -> Path | None:
    """Return the dataset YAML `data`, or that in the directory; None if there is none, or a variable is not set."""
    try:
        path = path_here(dataset_file(data))
    except DataError:
        return None
    return path if is_file(path) else None


def described(source: DatasetSource) -> str:
    """Return the dataset for messages."""
    return source.name if isinstance(source, InlineDataset) else str(source)
