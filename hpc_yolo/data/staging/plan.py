"""The files of a dataset that are staged: paths, sizes and a digest of both."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hpc_yolo.core.errors import DataError

NUM_THREADS = 8  # metadata of a parallel file system has a latency that threads hide
DIGEST_LETTERS = 24


class StagedFile(NamedTuple):
    """A file to be copied: its absolute path without . and .., and its size in bytes."""

    path: str
    size_bytes: int


@dataclass(frozen=True)
class StagePlan:
    """The files of one staged copy.

    Attributes:
        files: each once, sorted by path.
        digest: of the paths, sizes and times of all files.
    """

    files: tuple[StagedFile, ...]
    digest: str

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size_bytes for file in self.files)


def plan_copy(paths: Iterable[str], on_file: Callable[[], None] = lambda: None) -> StagePlan:
    """Return the plan of a copy of the files `paths`.

    Args:
        on_file: called after each file.

    Raises:
        OSError: a file does not exist or cannot be examined.
        DataError: two files would have the same path in the copy.
    """
    written: dict[str, str] = {}
    for path in paths:
        normal = os.path.abspath(path)  # noqa: PTH100, links are kept
        other = written.setdefault(normal, path)
        if other != path and not os.path.samefile(other, path):  # noqa: PTH121, `..` behind a link
            raise DataError(f"{other} and {path} are two files, and one in a copy")

    def examine(path: str) -> tuple[StagedFile, int]:
        found = Path(path).stat()
        on_file()
        return StagedFile(path, found.st_size), found.st_mtime_ns

    digest = hashlib.sha256()
    files = []
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for file, mtime_ns in pool.map(examine, sorted(written)):
            files.append(file)
            digest.update(os.fsencode(f"{file.path}\0{file.size_bytes} {mtime_ns}\n"))
    return StagePlan(tuple(files), digest.hexdigest()[:DIGEST_LETTERS])
