"""Download of published weights by name, checked by their digest.

No heavy imports: login nodes download, since compute nodes often have no internet access.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO

from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.core.files import exclusive_lock, write_atomic
from hpc_yolo.weights.store import CACHE_VARIABLE, CHUNK_BYTES, Progress, Store, published_names


def fetch(
    name: str, store: Store, *, sha256: str | None = None, on_progress: Progress = lambda _done, _all: None
) -> Path:
    """Return the path of the published file `name`; download it if it is missing, or resume the download.

    Args:
        sha256: required digest, in addition to the known one.
        on_progress: called with (bytes done, bytes in all or None).

    Raises:
        CheckpointError: there is no such file, the server cannot be reached, or the digest differs.
    """
    if name not in published_names():
        raise CheckpointError(
            f"there are no published weights {name!r} of a detector; available: {', '.join(published_names())}",
            hint="give the path of a file of your own",
        )
    path = store.path(name)
    try:
        store.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with exclusive_lock(path.with_suffix(".lock")):
            if not path.exists():
                from hpc_yolo.weights.download import download  # imports urllib and ssl: 30 ms

                download(f"{store.address}/{name}", path, on_progress)
            _check_digest(path, sha256 or published_names()[name])
    except OSError as error:
        raise CheckpointError(
            f"{store.directory}: cannot be written: {error.strerror}", hint=f"set {CACHE_VARIABLE} to another directory"
        ) from error
    return path


def _check_digest(path: Path, expected: str | None) -> None:
    """Compare with the known digest, else with that of the first download, which is kept beside the file."""
    kept = path.with_name(f"{path.name}.sha256")
    with path.open("rb") as file:
        found = _digest(file)
    if expected is None and kept.exists():
        expected = kept.read_text().split()[0]
    if expected is not None and found != expected.lower():
        aside = path.with_name(f"{path.name}.refused")
        path.replace(aside)
        raise CheckpointError(
            f"{path}: its SHA-256 is {found}, and {expected} is expected; it was set aside as {aside.name}",
            hint=f"fetch it again: hpc-yolo weights fetch {path.name} (if the file was replaced on purpose, delete "
            f"{kept} first)",
        )
    write_atomic(kept, f"{found}  {path.name}\n")


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
        digest.update(chunk)
    return digest.hexdigest()
