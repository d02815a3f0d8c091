"""Published weights by name: where they come from, where they are kept, and how they get there whole.

Imports nothing heavy: a login node fetches, since compute nodes often reach no internet.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

import yaml

from hpc_yolo.errors import CheckpointError
from hpc_yolo.fileio import exclusive_lock, sync_folder, write_atomic
from hpc_yolo.resources import resource_folder

MIN_BYTES = 100_000  # what is smaller is a page that says that something went wrong
CHUNK_BYTES = 2**20
TIMEOUT_S = 30.0
ATTEMPTS = 4
FIRST_PAUSE_S = 1.0
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
    path = store.path(name)
    try:
        store.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with exclusive_lock(path.with_suffix(".lock")):
            if not path.exists():
                _download(f"{store.address}/{name}", path, on_progress)
            _check_digest(path, sha256 or published_names()[name])
    except OSError as error:
        raise CheckpointError(
            f"{store.folder}: cannot be written: {error.strerror}", hint=f"set {CACHE_VARIABLE} to another folder"
        ) from error
    return path


def _download(url: str, path: Path, on_progress: Progress) -> None:
    part = path.with_suffix(".part")
    for attempt in range(ATTEMPTS):
        try:
            _continue_download(url, part, on_progress)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise CheckpointError(f"{url}: the server says {error.code} {error.reason}") from error
            failure: Exception = error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            failure = error
        if attempt == ATTEMPTS - 1:
            raise CheckpointError(
                f"{url}: cannot be fetched: {getattr(failure, 'reason', failure)}",
                hint=f"fetch it where there is internet and put it at {path}, or set {ADDRESS_VARIABLE} to a mirror",
            ) from failure
        time.sleep(FIRST_PAUSE_S * 2**attempt)
    size_bytes = part.stat().st_size
    if size_bytes < MIN_BYTES:
        part.unlink()
        raise CheckpointError(f"{url}: {size_bytes} bytes came, which is no network; is a proxy in between?")
    if not zipfile.is_zipfile(part):  # its index is at its end: a torn file has none
        part.unlink()
        raise CheckpointError(f"{url}: what came is no torch archive, or a part of one; is a proxy in between?")
    part.replace(path)
    sync_folder(path.parent)


def _continue_download(url: str, part: Path, on_progress: Progress) -> None:
    """Append what is missing of `part`; begin anew where the server does not go on or the file has changed there."""
    tag = part.with_suffix(".etag")
    known = tag.read_text() if tag.exists() else ""
    done = part.stat().st_size if part.exists() and known else 0
    request = urllib.request.Request(url, headers={"User-Agent": "hpc-yolo"})
    if done:
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", known)
    with _opened(request, part) as response:
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
        write_atomic(tag, response.headers.get("ETag") or response.headers.get("Last-Modified") or "")
        if not goes_on:
            done = 0
        length = response.headers.get("Content-Length")
        expected = done + int(length) if length is not None else None
        with part.open("ab" if goes_on else "wb") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                done += len(chunk)
                on_progress(done, expected)
    if expected is not None and done != expected:
        raise ConnectionError(f"the connection ended after {done} of {expected} bytes")
    tag.unlink()


def _opened(request: urllib.request.Request, part: Path) -> contextlib.AbstractContextManager[http.client.HTTPResponse]:
    if not request.full_url.startswith(("https://", "http://")):
        raise CheckpointError(f"{request.full_url}: only http and https addresses are fetched")
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)  # type: ignore[no-any-return]
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)  # more is here than there: begin anew
            raise ConnectionError("the server has less than was fetched before") from error
        raise


def _chunks(response: IO[bytes]) -> Iterator[bytes]:
    while chunk := response.read(CHUNK_BYTES):
        yield chunk


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
