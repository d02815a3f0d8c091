"""A dataset's directory that is complete or absent: it is written beside its place under another name."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hpc_yolo.core.errors import FULL, DataError
from hpc_yolo.data.files import plain_directory


@contextlib.contextmanager
def written_aside(directory: Path) -> Iterator[Path]:
    """Yield a new directory beside `directory` for the block to fill and `publish`; what it leaves there is removed.

    Raises:
        DataError: it cannot be made, `directory` is a link, or an error of the file system in the block.
    """
    require_no_link(directory)
    try:
        place = plain_directory(directory.absolute())
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as error:
        raise DataError(f"{directory}: cannot be made: {error.strerror}", hint="give another directory") from error
    try:
        yield aside
    except OSError as error:
        hint = "is the disk full?" if error.errno in FULL else "give another directory"
        written = error.filename2 or error.filename or directory  # of a copy or a new name the first is the source
        raise DataError(f"{written}: cannot be written: {error.strerror}", hint=hint) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def require_no_link(directory: Path) -> None:
    """Refuse a link, also to an empty directory: it cannot be replaced by a directory.

    Raises:
        DataError: it is one.
    """
    if directory.is_symlink():
        raise DataError(f"{directory}: is a link to {directory.readlink()}", hint="give a new directory")


def publish(aside: Path, directory: Path) -> None:
    """Move `aside` to `directory`, which is absent or empty, readable for all."""
    aside.chmod(0o755)
    place = plain_directory(directory.absolute())
    if not place.exists():
        aside.replace(place)
    elif place.samefile(Path.cwd()):  # a shell there would go on with the removed directory
        _fill(aside, place)
    else:
        place.rmdir()
        aside.replace(place)


def _fill(aside: Path, directory: Path) -> None:
    """Move what is in `aside` into the empty `directory`, the dataset YAML last, without which there is no dataset."""
    if any(directory.iterdir()):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(directory))
    for path in sorted(aside.iterdir(), key=lambda path: path.suffix == ".yaml"):
        path.replace(directory / path.name)
