"""Checking the files of a packed set, or of a copy, against its manifest; damaged images are named."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hpc_yolo.core.units import counted
from hpc_yolo.data.pack.index import SplitIndex
from hpc_yolo.data.pack.layout import PackedFile, index_of_shard, read_manifest

CHUNK_BYTES = 1 << 20  # fits into the cache of a core
NUM_THREADS = 8
MAX_NAMED = 5

OnBytes = Callable[[int], None]


def file_crc32(path: Path, on_bytes: OnBytes = lambda _number: None) -> int:
    """Return the CRC-32 of a file; call `on_bytes` with the size of each part that was read.

    Raises:
        OSError: it cannot be read.
    """
    crc32, buffer = 0, bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while number := file.readinto(buffer):
            crc32 = zlib.crc32(view[:number], crc32)
            on_bytes(number)
    return crc32


def verify_set(directory: Path, on_progress: Callable[[int, int], None] = lambda _done, _total: None) -> list[str]:
    """Return the damage of the packed set in `directory`, a sentence each; [] where there is none.

    Args:
        on_progress: called with (bytes read, all bytes).

    Raises:
        DataError: there is no complete set, or its manifest is damaged.
    """
    problems = verify_files(directory, read_manifest(directory).files, on_progress)
    return [detail for name, problem in problems.items() for detail in _details(directory, name, problem)]


def verify_files(
    directory: Path, files: dict[str, PackedFile], on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> dict[str, str]:
    """Return the problem of each of `files` in `directory` that is missing, cut off or damaged; see `packed_files`."""
    total, done = sum(file.size for file in files.values()), 0

    def add(number: int) -> None:
        nonlocal done
        done += number
        on_progress(done, total)

    largest_first = sorted(files, key=lambda name: -files[name].size)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = pool.map(lambda name: _problem(directory / name, files[name], add), largest_first)
        problems = dict(zip(largest_first, found, strict=True))
    return {name: problems[name] for name in files if problems[name]}


def _problem(path: Path, expected: PackedFile, on_bytes: OnBytes) -> str:
    """Return why a file is not the expected one; "" if it is."""
    try:
        size = path.stat().st_size
        if size != expected.size:
            return f"has {size} of {expected.size} bytes"
        return "" if file_crc32(path, on_bytes) == expected.crc32 else "is damaged"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _details(directory: Path, name: str, problem: str) -> list[str]:
    """Return the damaged images of a shard that is damaged or cut off; otherwise the problem of the file."""
    path = directory / name
    whole = f"{path}: {problem}"
    place = index_of_shard(path)
    if place is None or not path.is_file():
        return [whole]
    try:
        index = SplitIndex(place[0])
    except (OSError, ValueError):
        return [whole]
    damaged = []
    for image in (index.arrays["shard"] == place[1]).nonzero()[0].tolist():
        try:
            index.read(image)
        except OSError:
            damaged.append(index.name(image).decode(errors="replace"))
    if not damaged:
        return [f"{whole}, outside of its images: every one of them is readable"]
    named = ", ".join(damaged[:MAX_NAMED]) + (", …" if len(damaged) > MAX_NAMED else "")
    return [f"{whole}: {counted(len(damaged), 'image')}: {named}"]
