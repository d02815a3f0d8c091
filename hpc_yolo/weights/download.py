"""Download of a file by http(s); an interrupted download is resumed."""

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
    """Download the torch archive at `url` to `path`; resume a partial download, and retry several times.

    Raises:
        CheckpointError: the server cannot be reached, or the file is not a complete archive.
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
                hint=f"copy it to {path} from a machine with internet, or set {ADDRESS_VARIABLE} to a mirror",
            ) from failure
        time.sleep(FIRST_PAUSE_S * 2**attempt)
    size_bytes = part.stat().st_size
    if size_bytes < MIN_BYTES:
        part.unlink()
        raise CheckpointError(f"{url}: {size_bytes} bytes were received, too few for a model; is there a proxy?")
    if not zipfile.is_zipfile(part):  # the index is at the end: an incomplete file has none
        part.unlink()
        raise CheckpointError(f"{url}: the download is not a complete torch archive; is there a proxy?")
    part.replace(path)
    sync_directory(path.parent)


def _continue_download(url: str, part: Path, on_progress: Progress) -> None:
    """Append the missing bytes of `part`; start over if the server cannot resume or its file has changed."""
    tag = part.with_suffix(".etag")
    known = tag.read_text() if tag.exists() else ""
    done = part.stat().st_size if part.exists() and known else 0
    request = urllib.request.Request(url, headers={"User-Agent": "hpc-yolo"})
    if done:
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", known)
    with _opened(request, part) as response:
        is_resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        write_atomic(tag, response.headers.get("ETag") or response.headers.get("Last-Modified") or "")
        if not is_resumed:
            done = 0
        length = response.headers.get("Content-Length")
        expected = done + int(length) if length is not None else None
        with part.open("ab" if is_resumed else "wb") as file:
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
            part.unlink(missing_ok=True)  # the server's file is shorter: start over
            raise ConnectionError("the file on the server is shorter than the downloaded part") from error
        raise


def _chunks(response: IO[bytes]) -> Iterator[bytes]:
    while chunk := response.read(CHUNK_BYTES):
        yield chunk
