"""The files of a dataset that are staged: its image files, their archive, or the shards of a packed set."""

from __future__ import annotations

from collections.abc import Sequence

from hpc_yolo.data.archives.archive import archive_on
from hpc_yolo.data.dataset import Dataset
from hpc_yolo.data.formats import open_split
from hpc_yolo.data.pack.layout import is_index, shards_of


def files_to_stage(dataset: Dataset, splits: Sequence[str]) -> list[str]:
    """Return the files that the images of `splits` are in, each once.

    Raises:
        DataError: a split is missing or empty, or a packed set is damaged.
    """
    files: list[str] = []
    for split in splits:
        indexes = [source for source in dataset.split(split) if is_index(source)]
        if indexes:
            files += [str(shard) for index in indexes for shard, _ in shards_of(index)]
        else:
            files += (str(archive_on(image) or image) for image in open_split(dataset, split).images)
    return list(dict.fromkeys(files))
