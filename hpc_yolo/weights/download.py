"""Download a file by http(s); an interrupted download is resumed."""

from __future__ import annotations

import contextlib
import http.client
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.core.files import sync_directory, write_atomic
from hpc_yolo.weights.store import ADDRESS_VARIABLE, CHUNK_BYTES, Progress

MIN_BYTES = 100_000  # less is an error page
TIMEOUT_S = 30.0
ATTEMPTS = 4
FIRST_PAUSE_S = 1.0


def download(url: str, path: Path, on_progress: Progress) -> None:
    """Fetch the torch archive at `url` to `path`; goes on with one that was cut off, and tries several times.

    Raises:
        CheckpointError: nothing is reached, or what came is no whole archive.
    """
    part = path.with_suffix(".part")
    for attempt in range(ATTEMPTS):
        try:
            _continue_download(url, part, on_progress)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise CheckpointError(f"{url}: the server answers {error.code} {error.reason}") from error
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
        raise CheckpointError(f"{url}: {size_bytes} bytes were received, too few for a model; is there a proxy?")
    if not zipfile.is_zipfile(part):  # its index is at its end: a torn file has none
        part.unlink()
        raise CheckpointError(f"{url}: the download is not a complete torch archive; is there a proxy?")
    part.replace(path)
    sync_directory(path.parent)


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
