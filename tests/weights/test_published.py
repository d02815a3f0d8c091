"""Downloads of published weights from a real server that drops connections and changes its content."""

import hashlib
import http.server
import io
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.weights import download
from hpc_yolo.weights.published import fetch
from hpc_yolo.weights.store import Store, locate


def torch_archive(size_bytes: int) -> bytes:
    """Return random bytes in a zip archive, as torch writes them."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("w/data/0", os.urandom(size_bytes))
    return stream.getvalue()


CONTENT = torch_archive(300_000)
HALF = len(CONTENT) // 2
THREE_QUARTERS = HALF + (len(CONTENT) - HALF) // 2


class Server(http.server.BaseHTTPRequestHandler):
    """HTTP handler that serves `content`; `behaviour` lists the failures, `requests` the requested ranges."""

    def do_GET(self):
        server: Any = self.server
        server.requests.append(self.headers.get("Range"))
        behaviour = server.behaviour.pop(0) if server.behaviour else "ok"
        if isinstance(behaviour, int):
            self.send_error(behaviour)
            return
        start = 0
        if self.headers.get("Range") and behaviour != "no ranges" and self.headers.get("If-Range") == server.tag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("ETag", server.tag)
        if behaviour != "truncates":
            self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        body = server.content[start:]
        self.wfile.write(body[: len(body) // 2] if behaviour in ("drops", "truncates") else body)

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.01)
    httpd: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    httpd.behaviour, httpd.requests, httpd.tag, httpd.content = [], [], '"one"', CONTENT
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def store(server, tmp_path) -> Store:
    return Store(f"http://127.0.0.1:{server.server_address[1]}", tmp_path / "cache" / "weights")


def test_file_is_fetched_once_and_progress_is_reported(server, store):
    progress = []
    path = fetch("yolov5n.pt", store, on_progress=lambda done, total: progress.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert progress[-1] == (len(CONTENT), len(CONTENT))
    assert fetch("yolov5n.pt", store) == path
    assert server.requests == [None]
    assert sorted(item.name for item in path.parent.iterdir()) == ["yolov5n.lock", "yolov5n.pt", "yolov5n.pt.sha256"]


@pytest.mark.parametrize(
    ("behaviour", "requests"),
    [
        (["drops"], [None, f"bytes={HALF}-"]),
        (["drops", "drops"], [None, f"bytes={HALF}-", f"bytes={THREE_QUARTERS}-"]),
        (["drops", "no ranges"], [None, f"bytes={HALF}-"]),
        ([503, 500], [None, None, None]),
        (["drops", 416], [None, f"bytes={HALF}-", None]),
    ],
)
def test_interrupted_download_resumes_from_received_bytes(server, store, behaviour, requests):
    server.behaviour = behaviour
    assert fetch("yolov5n.pt", store).read_bytes() == CONTENT
    assert server.requests == requests


def test_file_changed_on_server_is_fetched_from_start(server, store):
    server.behaviour = ["drops"] * 4
    with pytest.raises(CheckpointError, match="cannot be fetched: the connection ended after"):
        fetch("yolov5n.pt", store)
    server.tag, server.content = '"two"', torch_archive(200_000)
    assert fetch("yolov5n.pt", store).read_bytes() == server.content


@pytest.mark.parametrize(
    ("behaviour", "content", "message"),
    [
        ([404], CONTENT, "the server answers 404"),
        ([], b"<html>log in first</html>", "25 bytes were received, too few for a model"),
        ([], b"<html>" + b"log in first " * 10_000, "not a complete torch archive"),
        (["truncates"], CONTENT, "not a complete torch archive"),
    ],
)
def test_invalid_download_is_refused_and_not_stored(server, store, behaviour, content, message):
    server.behaviour, server.content = behaviour, content
    with pytest.raises(CheckpointError, match=message):
        fetch("yolov5n.pt", store)
    assert not store.path("yolov5n.pt").exists()
    server.behaviour, server.content = [], CONTENT
    assert fetch("yolov5n.pt", store).read_bytes() == CONTENT


def test_unreachable_server_error_has_path_for_manual_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.01)
    store = Store("http://127.0.0.1:9", tmp_path)
    with pytest.raises(CheckpointError) as caught:
        fetch("yolov5n.pt", store)
    assert "http://127.0.0.1:9/yolov5n.pt: cannot be fetched" in str(caught.value)
    assert f"copy it to {tmp_path / 'yolov5n.pt'}" in str(caught.value)


def test_digest_is_checked_at_download_if_given_and_later_always(server, store):
    digest = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(CheckpointError, match=f"its SHA-256 is {digest}, and 00 is expected"):
        fetch("yolov5n.pt", store, sha256="00")
    assert not store.path("yolov5n.pt").exists()
    path = fetch("yolov5n.pt", store, sha256=digest.upper())
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(CheckpointError, match=f"and {digest} is expected; it was set aside as yolov5n.pt.refused"):
        fetch("yolov5n.pt", store)
    assert fetch("yolov5n.pt", store).read_bytes() == CONTENT


def test_concurrent_fetches_download_once(server, store):
    """Two submissions of one user use the same cache."""
    command = [sys.executable, "-m", "hpc_yolo", "weights", "fetch", "yolov5s.pt", "--from", store.address]
    environ = {**os.environ, "HPC_YOLO_CACHE": str(store.directory.parent)}
    both = [subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [one.communicate()[0].strip() for one in both] == [str(store.path("yolov5s.pt"))] * 2
    assert store.path("yolov5s.pt").read_bytes() == CONTENT
    assert server.requests == [None]


def test_local_file_has_priority_over_published_weights(tmp_path):
    store = Store("http://example", tmp_path / "cache")
    here = tmp_path / "yolov5s.pt"
    assert locate(str(here), store) == str(tmp_path / "cache" / "yolov5s.pt")
    assert locate(str(tmp_path / "mine.pt"), store) == str(tmp_path / "mine.pt")
    assert locate("", store) == ""
    here.write_bytes(b"")
    assert locate(str(here), store) == str(here)


def test_store_is_read_from_environment():
    assert Store.from_env({"HOME": "/h"}).directory == Path("/h/.cache/hpc-yolo/weights")
    assert Store.from_env({"HOME": "/h", "XDG_CACHE_HOME": "/x"}).directory == Path("/x/hpc-yolo/weights")
    mirror = Store.from_env({"HPC_YOLO_CACHE": "/c", "HPC_YOLO_WEIGHTS_URL": "http://mirror"})
    assert mirror == Store("http://mirror", Path("/c/weights"))
    assert Store.from_env({"HOME": "/h"}).address.startswith("https://")


@pytest.mark.parametrize("name", ["yolov5z.pt", "../yolov5s.pt", "yolov5s-seg.pt"])
def test_unknown_name_error_lists_published_weights(store, name):
    with pytest.raises(CheckpointError, match=r"available: yolov5n\.pt, yolov5s\.pt"):
        fetch(name, store)
