"""A dataset's directory that is complete or absent: it is written beside its place under another name."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hpc_yolo.core.errors import DataError


@contextlib.contextmanager
def written_aside(directory: Path) -> Iterator[Path]:
    """Yield a new directory beside `directory` for the block to fill and `publish`; what it leaves there is removed.

    Raises:
        DataError: it cannot be made, or an error of the file system in the block.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    except OSError as error:
        raise DataError(f"{directory}: cannot be made: {error.strerror}", hint="give another directory") from error
    try:
        yield aside
    except OSError as error:
        file = error.filename or directory
        raise DataError(f"{file}: cannot be written: {error.strerror}", hint="is the disk full?") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def publish(aside: Path, directory: Path) -> None:
    """Move `aside` to `directory`, which is absent or empty, readable for all."""
    aside.chmod(0o755)
    if directory.exists():
        directory.rmdir()
    aside.replace(directory)
