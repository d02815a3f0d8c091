"""Published weights by name: where they come from, where they are kept, and how they get there whole.

Imports nothing heavy: a login node fetches, since compute nodes often reach no internet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

import yaml

from hpc_yolo.errors import CheckpointError
from hpc_yolo.fileio import exclusive_lock, write_atomic
from hpc_yolo.resources import resource_folder

CHUNK_BYTES = 2**20
ADDRESS_VARIABLE = "HPC_YOLO_WEIGHTS_URL"
CACHE_VARIABLE = "HPC_YOLO_CACHE"

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Store:
    """Where published weights come from (`address`, a URL) and where they are kept (`folder`)."""

    address: str
    folder: Path

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Store:
        """The project's address or a mirror, and the user's cache folder."""
        home = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".cache")
        folder = Path(environ.get(CACHE_VARIABLE) or Path(home) / "hpc-yolo")
        return cls(environ.get(ADDRESS_VARIABLE) or str(_catalogue()["address"]), folder / "weights")

    def path(self, name: str) -> Path:
        return self.folder / name


@cache
def _catalogue() -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load((resource_folder("configs") / "published" / "weights.yaml").read_text())
    return content


def published_names() -> dict[str, str | None]:
    """Name of every published file, and its SHA-256 where it is known."""
    files = _catalogue()["files"]
    assert isinstance(files, dict)
    return {str(name): entry["sha256"] for name, entry in files.items()}


def locate(weights: str, store: Store) -> str:
    """The path that `weights` has, or, for a published name that is not there, will have in the cache."""
    path = Path(weights)
    if not weights or path.exists() or path.name not in published_names():
        return weights
    return str(store.path(path.name))


def fetch(
    name: str, store: Store, *, sha256: str | None = None, on_progress: Progress = lambda _done, _all: None
) -> Path:
    """The published file `name`, downloaded unless it is there; goes on with a download that was cut off.

    Args:
        sha256: what its digest must be, besides the one that is known.
        on_progress: told (bytes done, bytes in all where the server says so).

    Raises:
        CheckpointError: there is no such file, nothing is reached, or what came is not the file.
    """
    if name not in published_names():
        raise CheckpointError(
            f"there are no published weights {name!r} of a detector; there are {', '.join(published_names())}",
            hint="give the path of a file of your own",
        )
    from hpc_yolo.weights.download import download

    path = store.path(name)
    try:
        store.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with exclusive_lock(path.with_suffix(".lock")):
            if not path.exists():
                download(f"{store.address}/{name}", path, on_progress)
            _check_digest(path, sha256 or published_names()[name])
    except OSError as error:
        raise CheckpointError(
            f"{store.folder}: cannot be written: {error.strerror}", hint=f"set {CACHE_VARIABLE} to another folder"
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
            hint=f"fetch it again: hpc-yolo weights fetch {path.name} (if another file is meant to be there, delete "
            f"{kept} first)",
        )
    write_atomic(kept, f"{found}  {path.name}\n")


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
        digest.update(chunk)
    return digest.hexdigest()
