"""Images on servers: addresses of all forms, and errors of servers."""

import base64
import http.server
import json
import socket
import threading
from typing import ClassVar

import cv2
import numpy as np
import pytest

from hpc_yolo.core.errors import DataError
from hpc_yolo.inference import fetch
from hpc_yolo.inference.fetch import fetch_image
from hpc_yolo.inference.sources import find_sources

JPEG = cv2.imencode(".jpg", np.full((64, 96, 3), 120, dtype=np.uint8))[1].tobytes()
SIZE_TEXT = str(len(JPEG))
RELEASED = threading.Event()


class Site(http.server.BaseHTTPRequestHandler):
    """HTTP handler that replies by path; `replies` has (status, headers, body)."""

    replies: ClassVar = {
        "/bus.jpg": (200, {"Content-Type": "image/jpeg", "Content-Length": SIZE_TEXT}, JPEG),
        "/bus.JPG?token=a.b/c": (200, {"Content-Type": "image/jpeg"}, JPEG),
        "/%E7%8C%AB.jpg": (200, {"Content-Type": "image/jpeg"}, JPEG),
        "/octets.jpg": (200, {"Content-Type": "application/octet-stream"}, JPEG),
        "/untyped.jpg": (200, {}, JPEG),
        "/snapshot?camera=1": (200, {"Content-Type": "image/jpeg"}, JPEG),
        "/moved.jpg": (302, {"Location": "/bus.jpg"}, b""),
        "/loop.jpg": (302, {"Location": "/loop.jpg"}, b""),
        "/away.jpg": (302, {"Location": "ftp://127.0.0.1/bus.jpg"}, b""),
        "/local.jpg": (302, {"Location": "file:///etc/hostname"}, b""),
        "/page.jpg": (200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>log in</html>"),
        "/text.jpg": (200, {}, b"not an image"),
        "/cut.jpg": (200, {"Content-Type": "image/jpeg", "Content-Length": "99999"}, JPEG),
        "/failing.jpg": (503, {}, b"later"),
        "/big.jpg": (200, {"Content-Type": "image/jpeg"}, JPEG + bytes(2**20)),
    }

    def do_GET(self):
        if self.path == "/private.jpg":
            allowed = self.headers.get("Authorization") == "Basic " + base64.b64encode(b"me:p@ss").decode()
            status, headers, body = (200, {}, JPEG) if allowed else (401, {"WWW-Authenticate": 'Basic realm="x"'}, b"")
        elif self.path == "/slow.jpg":
            RELEASED.wait(30)
            return
        else:
            status, headers, body = self.replies.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def site():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    RELEASED.clear()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    RELEASED.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("bus.jpg", "bus"),
        ("bus.JPG?token=a.b/c", "bus"),
        ("猫.jpg", "猫"),
        ("octets.jpg", "octets"),
        ("untyped.jpg", "untyped"),
        ("snapshot?camera=1", "snapshot"),
        ("moved.jpg", "moved"),
    ],
)
def test_address_of_image_is_one_image(path, stem, site, run_predict, tmp_path):
    result = run_predict(f"http://{site}/{path}", "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    (line,) = map(json.loads, result.stdout.splitlines())
    assert (line["frame"], line["width"], line["height"]) == (None, 96, 64)
    results = [path for path in (tmp_path / "runs/detect/exp").iterdir() if path.suffix]
    assert [path.stem for path in results] == [stem] and cv2.imread(str(results[0])).shape == (64, 96, 3)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.jpg", "answers 404"),
        ("failing.jpg", "answers 503"),
        ("page.jpg", "sends text/html, which is not an image"),
        ("text.jpg", "cannot be decoded: text, 12 bytes"),
        ("cut.jpg", f"ended after {SIZE_TEXT} of 99999 bytes"),
        ("loop.jpg", "answers 302"),
        ("away.jpg", "redirects to ftp:"),
        ("local.jpg", "is not allowed"),
        ("private.jpg", "answers 401"),
    ],
)
def test_failed_address_is_reported_and_others_are_read(path, message, site, run_predict):
    result = run_predict(f"http://{site}/{path}", f"http://{site}/bus.jpg", "--json")
    assert result.exit_code == 3, (result.output, result.exception)
    assert f"failed: http://{site}/{path}: " in result.stderr and message in result.stderr
    assert len(result.stdout.splitlines()) == 1 and "1 of 2 sources failed" in result.stderr


def test_password_in_address_is_used_and_not_printed(site, run_predict):
    result = run_predict(f"http://me:p%40ss@{site}/private.jpg")
    assert result.exit_code == 0, (result.output, result.exception)
    assert f"http://me:***@{site}/private.jpg" in result.output and "p%40ss" not in result.output


def test_slow_and_large_replies_are_refused(site, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_BYTES", 2**16)
    with pytest.raises(DataError, match="more than 0 MiB"):
        fetch_image(f"http://{site}/big.jpg", must_be_image=True)
    monkeypatch.setattr(fetch, "TIMEOUT_S", 0.3)
    with pytest.raises(DataError, match="no answer within"):
        fetch_image(f"http://{site}/slow.jpg", must_be_image=True)


def test_unreachable_server_is_reported():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(DataError, match="cannot be reached: Connection refused"):
            fetch_image(f"http://127.0.0.1:{unused.getsockname()[1]}/bus.jpg", must_be_image=True)


@pytest.mark.parametrize("address", ["http:///bus.jpg", "http://[::1/bus.jpg", "http://host:port/bus.jpg"])
def test_malformed_address_is_reported(address):
    (source,) = find_sources(address).sources
    assert source.stem
    with pytest.raises(DataError, match="is not an address"):
        fetch_image(address, must_be_image=True)


def test_stream_is_not_fetched_as_image(site, monkeypatch):
    kinds = {"/live.jpg": "multipart/x-mixed-replace; boundary=frame", "/live": "application/octet-stream"}
    replies = {path: (200, {"Content-Type": kind}, b"") for path, kind in kinds.items()}
    monkeypatch.setattr(Site, "replies", replies)
    assert fetch_image(f"http://{site}/live.jpg", must_be_image=True) is None
    assert fetch_image(f"http://{site}/live", must_be_image=False) is None
