"""Atomic writes of files, JSON lines that survive an incomplete last line, and a lock between processes.

On a shared file system only rename within one directory is atomic, and a file is durable only after fsync of itself and
of its directory; only this module does both.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

Struct = TypeVar("Struct", bound=msgspec.Struct)

LOCK_POLL_S = 0.02
GROUP_DIRECTORY = stat.S_ISGID | stat.S_IRGRP | stat.S_IXGRP


def is_group_directory(directory: Path) -> bool:
    """Return True if its group can read `directory` and is inherited by files created in it (setgid)."""
    return directory.stat().st_mode & GROUP_DIRECTORY == GROUP_DIRECTORY


def file_mode(directory: Path) -> int:
    """Return the mode of a new file in `directory`: readable by its owner, and by the group in a group directory."""
    return 0o640 if is_group_directory(directory) else 0o600


def make_directory(path: Path) -> None:
    """Create the directory `path` if it is missing; inside a group directory with that one's mode.

    Raises:
        OSError: it cannot be created.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        if is_group_directory(path.parent):
            path.chmod(stat.S_IMODE(path.parent.stat().st_mode))


@contextlib.contextmanager
def atomic_writer(
    path: Path,
    *,
    mode: int | None = None,
    check: Callable[[Path], None] = lambda _temporary: None,
    before_publish: Callable[[], None] = lambda: None,
) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`; when the block succeeds, sync it and rename it over `path`.

    If the block raises, `path` is unchanged and the temporary file is removed.

    Args:
        mode: of the file; by default that of `file_mode`.
        check: called with the temporary file when its content is durable; may raise to prevent the rename.
        before_publish: called after `check`, last before the rename; may raise to prevent it.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), file_mode(path.parent) if mode is None else mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        check(Path(temporary))
        before_publish()
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_atomic(
    path: Path, content: str | bytes, *, mode: int | None = None, before_publish: Callable[[], None] = lambda: None
) -> None:
    """Replace the content of `path` atomically by `content` (text as UTF-8); see `atomic_writer`."""
    with atomic_writer(path, mode=mode, before_publish=before_publish) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def remove_unpublished(directory: Path) -> None:
    """Remove the temporary files of `atomic_writer` in `directory`; their renames then fail."""
    for path in directory.glob(".*.part"):
        path.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make renames and new names inside `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_struct(path: Path, value: msgspec.Struct) -> None:
    """Write `value` to `path` as JSON.

    Raises:
        OSError: it cannot be written.
    """
    write_atomic(path, msgspec.json.encode(value) + b"\n")


def create_exclusive(path: Path, content: bytes) -> bool:
    """Write `content` to the new file `path`; return False, and change nothing, where that file exists.

    Of several processes, on any nodes, one creates it: a hard link is atomic on shared file systems too.

    Raises:
        OSError: it cannot be written.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), file_mode(path.parent))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        Path(temporary).unlink(missing_ok=True)
    sync_directory(path.parent)
    return True


def read_struct(path: Path, kind: type[Struct]) -> Struct | None:
    """Return what `write_struct` wrote; None if there is no such file, or its content is not of type `kind`.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def unnamed_memory_file(name: str) -> int:
    """Return the descriptor of an empty file in memory that has no path; `name` is for /proc alone.

    The kernel frees it when the last process that has it open ends or is killed. It takes no space in /dev/shm.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:  # not on Linux
        return os.dup(file.fileno())


def append_json_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON object; see `append_line`."""
    append_line(path, json.dumps(record, separators=(",", ":"), allow_nan=False).encode())


def append_line(path: Path, content: bytes) -> None:
    """Append `content` and a newline with a single write, so that a line is complete or torn at the very end.

    If an earlier crash has left an incomplete last line, it is terminated with a newline first.
    """
    line = content + b"\n"
    descriptor = _open_for_appending(path)
    try:
        size_bytes = os.fstat(descriptor).st_size
        if size_bytes and os.pread(descriptor, 1, size_bytes - 1) != b"\n":
            line = b"\n" + line
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, "only part of a line was written", str(path))
    finally:
        os.close(descriptor)


def _open_for_appending(path: Path) -> int:
    """Open `path` and return its descriptor; a new file has the mode of `file_mode`, independent of the umask."""
    try:
        return os.open(path, os.O_RDWR | os.O_APPEND)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        os.fchmod(descriptor, file_mode(path.parent))
        return descriptor


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in `path`, oldest first; torn or foreign lines are skipped; [] without a file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    yield from parse_json_lines(content)


def parse_json_lines(content: bytes) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in `content`, one a line; torn or foreign lines are skipped."""
    for line in content.split(b"\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record


@contextlib.contextmanager
def exclusive_lock(path: Path, timeout_s: float | None = None) -> Iterator[None]:
    """Hold the lock file `path` against other processes (on all nodes, where the file system has POSIX locks).

    Raises:
        TimeoutError: another process has held it for `timeout_s`.
        OSError: the file or the lock cannot be created.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if timeout_s is None:
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
        else:
            _lock_within(descriptor, path, timeout_s)
        yield
    finally:
        os.close(descriptor)


def _lock_within(descriptor: int, path: Path, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except (BlockingIOError, PermissionError):  # POSIX allows either
            if time.monotonic() > deadline_s:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds it", str(path)) from None
        time.sleep(LOCK_POLL_S)
