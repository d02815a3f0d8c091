"""Download of images by http(s): one file per address, with limits on time and size."""

from __future__ import annotations

import contextlib
import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.text import printable

WEB_PREFIXES = ("http://", "https://")
TIMEOUT_S = 10.0  # for the first byte of the response, and between two reads
TOTAL_S = 60.0
MAX_BYTES = 256 * 2**20
CHUNK_BYTES = 2**16
MAX_REDIRECTS = 5
# Content types of streams and videos, which the video decoder opens.
STREAM_TYPES = ("multipart/", "video/", "audio/", "application/vnd.apple.mpegurl", "application/x-mpegurl")
UNKNOWN_TYPES = ("", "application/octet-stream", "binary/octet-stream")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirect handler that follows http(s) addresses only."""

    max_redirections = MAX_REDIRECTS

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.lower().startswith(WEB_PREFIXES):
            raise DataError(f"the server redirects to {printable(newurl)}, which is not an http address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch_image(address: str, *, must_be_image: bool) -> bytes | None:
    """Return the bytes of the image at `address`, or None where a stream or video is served.

    Args:
        must_be_image: the address has an image suffix; otherwise the content type decides.

    Raises:
        DataError: the server cannot be reached, refuses, sends another type, or sends too much or too slowly.
    """
    deadline_s = time.monotonic() + TOTAL_S
    with _opened(address) as response:
        kind = response.headers.get_content_type() if response.headers.get("Content-Type") else ""
        if kind.startswith(STREAM_TYPES) or not (must_be_image or kind.startswith("image/")):
            return None
        if not kind.startswith("image/") and kind not in UNKNOWN_TYPES:
            raise DataError(f"the server sends {printable(kind)}, which is not an image", hint=_hint(kind))
        content = bytearray()
        while chunk := response.read(CHUNK_BYTES):
            content += chunk
            if len(content) > MAX_BYTES:
                raise DataError(f"the server sends more than {MAX_BYTES >> 20} MiB, the limit for one image")
            if time.monotonic() > deadline_s:
                raise DataError(f"only {len(content)} bytes came in {TOTAL_S:.0f} s")
        expected = response.headers.get("Content-Length", "")
        if expected.isdecimal() and len(content) < int(expected):
            raise DataError(f"the connection ended after {len(content)} of {expected} bytes")
    return bytes(content)


@contextlib.contextmanager
def _opened(address: str) -> Iterator[http.client.HTTPResponse]:
    """Send a GET request and return the open response; errors become a `DataError`."""
    try:
        target, password = _without_userinfo(address)
        opener = urllib.request.build_opener(
            _Redirects(), urllib.request.HTTPBasicAuthHandler(password), urllib.request.HTTPDigestAuthHandler(password)
        )
        request = urllib.request.Request(target, headers={"User-Agent": "hpc-yolo", "Accept": "image/*,*/*;q=0.5"})
        with opener.open(request, timeout=TIMEOUT_S) as response:
            yield response
    except urllib.error.HTTPError as error:
        error.close()
        raise DataError(f"the server answers {error.code} {printable(str(error.reason))}") from error
    except TimeoutError as error:
        raise DataError(f"no answer within {TIMEOUT_S:.0f} s") from error
    except urllib.error.URLError as error:
        reason = error.reason
        message = reason.strerror if isinstance(reason, OSError) and reason.strerror else reason
        if isinstance(reason, TimeoutError):
            message = f"no answer within {TIMEOUT_S:.0f} s"
        raise DataError(
            f"cannot be reached: {message}", hint="check the address, and whether this machine may connect to it"
        ) from (error)
    except (http.client.HTTPException, OSError) as error:
        raise DataError(f"the connection failed: {type(error).__name__}: {error}") from error
    except ValueError as error:  # raised by urllib for an invalid address
        raise DataError(f"is not an address: {error}") from error


def _without_userinfo(address: str) -> tuple[str, urllib.request.HTTPPasswordMgr]:
    """Return (the address in ASCII without user and password, the manager that sends them on request)."""
    parts = urllib.parse.urlsplit(address)
    if not parts.hostname:
        raise ValueError("it has no host")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname.encode("idna").decode("ascii")
    port = f":{parts.port}" if parts.port is not None else ""
    path, query = (urllib.parse.quote(part, safe="/%:@!$&'()*+,;=~?") for part in (parts.path, parts.query))
    target = urllib.parse.urlunsplit((parts.scheme.lower(), host + port, path, query, ""))
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if parts.username is not None:
        user, password = urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
        passwords.add_password(None, target, user, password)
    return target, passwords


def _hint(kind: str) -> str | None:
    return "perhaps a page about the image, or a log-in; give the address of the file" if "html" in kind else None
