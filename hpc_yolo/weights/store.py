"""The catalogue of published weights, and their directory on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from hpc_yolo.core.package_data import resource_directory

CHUNK_BYTES = 2**20
ADDRESS_VARIABLE = "HPC_YOLO_WEIGHTS_URL"
CACHE_VARIABLE = "HPC_YOLO_CACHE"

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Store:
    """The source (`address`, a URL) and the local `directory` of published weights."""

    address: str
    directory: Path

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Store:
        """Return the store with the project's address or a mirror, and the user's cache directory."""
        home = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".cache")
        directory = Path(environ.get(CACHE_VARIABLE) or Path(home) / "hpc-yolo")
        return cls(environ.get(ADDRESS_VARIABLE) or str(_catalogue()["address"]), directory / "weights")

    def path(self, name: str) -> Path:
        """Return the path of a file in the store."""
        return self.directory / name


@cache
def _catalogue() -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load(
        (resource_directory("configs") / "published" / "weights.yaml").read_text()
    )
    return content


def published_names() -> dict[str, str | None]:
    """Return name -> SHA-256 (None if not known) of every published file."""
    files = _catalogue()["files"]
    assert isinstance(files, dict)
    return {str(name): entry["sha256"] for name, entry in files.items()}


def locate(weights: str, store: Store) -> str:
    """Return the path of `weights`; for a published name without such a file, its path in the cache."""
    path = Path(weights)
    if not weights or path.exists() or path.name not in published_names():
        return weights
    return str(store.path(path.name))
