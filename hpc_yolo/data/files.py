"""Files and directories of a dataset, on a disk or in an archive: a path may go through one (coco.zip/images/1.jpg).

Needs no NumPy. Members of packed sets are read by `contents`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hpc_yolo.data.archives.archive import Archive, archive_on, member_of


def exists(path: Path) -> bool:
    """Return True if there is a file or directory `path`."""
    return is_file(path) or is_dir(path)


def is_file(path: Path) -> bool:
    """Return True if `path` is a file."""
    place = _within(path)
    if place is None:
        return os.path.isfile(path)  # noqa: PTH113, a name that is too long is not an error
    return place[0].table.find(os.fsencode(place[1])) is not None


def is_dir(path: Path) -> bool:
    """Return True if `path` is a directory, or an archive."""
    place = member_of(str(path))
    if place is None:
        return os.path.isdir(path)  # noqa: PTH112, a name that is too long is not an error
    return place[0].table.has_directory(os.fsencode(place[1]))


def read_bytes(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: it cannot be read; its `filename` is `path`.
    """
    try:
        place = _within(path)
        return path.read_bytes() if place is None else place[0].read(place[1])
    except OSError as error:
        error.filename = str(path)
        raise


def names_in(directory: Path) -> list[str]:
    """Return the names in a directory, sorted.

    Raises:
        OSError: it cannot be listed.
    """
    place = member_of(str(directory))
    if place is None:
        return sorted(os.listdir(directory))  # noqa: PTH208, names alone
    skipped = len(os.fsencode(place[1])) + (place[1] != "")
    below = place[0].table.below(os.fsencode(place[1]))
    return sorted({os.fsdecode(name[skipped:].partition(b"/")[0]) for name in below})


def members_below(directory: Path) -> Iterator[Path] | None:
    """Return all files below a directory of an archive; None for a directory on a disk."""
    place = member_of(str(directory))
    if place is None:
        return None
    below = place[0].table.below(os.fsencode(place[1]))
    return (place[0].path / os.fsdecode(name) for name in below)


def plain_directory(directory: Path) -> Path:
    """Return the path of a directory without `..`.

    `a/link/..` is not `a` where the link leads elsewhere; the links before the last `..` are resolved then, and none
    behind it: the labels of images in a/link/../images are in a/link/../labels, wherever a link images leads.
    """
    parts = directory.parts
    if ".." not in parts:
        return directory
    end = len(parts) - parts[::-1].index("..")
    above = Path(*parts[:end])
    plain = Path(os.path.normpath(above))
    try:
        is_same = plain.samefile(above)
    except OSError:  # in an archive, or there is none
        is_same = is_dir(plain)
    return Path(plain if is_same else os.path.realpath(above), *parts[end:])


def file_state(path: str | Path) -> bytes:
    """Return bytes that change when the file `path` does; none where there is no file."""
    place = _within(path)
    try:
        if place is not None:
            member = place[0].find(place[1])
            return os.fsencode(f"\n{path} {member[1:]} {place[0].version}")
        found = os.stat(path)  # noqa: PTH116, of many thousands
    except OSError:
        return b""
    return os.fsencode(f"\n{path} {found.st_size} {found.st_mtime_ns}")


def split_suffix(path: str) -> tuple[str, str]:
    """Return (what is before the suffix of a path, its suffix), as `Path` has it but much faster."""
    dot = path.rfind(".")
    if path.rfind(os.sep) + 1 < dot < len(path) - 1:
        return path[:dot], path[dot:]
    return path, ""


def cache_file(directory: Path, name: str) -> Path:
    """Return the file in which a scan of a split is kept: in `directory`, or beside the archive that this is in."""
    archive = archive_on(directory)
    if archive is None:
        return directory / f".{name}.hpc-yolo.npz"
    return archive.with_name(f".{archive.name}.{name}.hpc-yolo.npz")


def _within(path: str | Path) -> tuple[Archive, str] | None:
    """Return (archive, name) of a path through an archive; None for others, and for an archive itself."""
    place = member_of(str(path))
    return place if place is not None and str(path) != str(place[0].path) else None
