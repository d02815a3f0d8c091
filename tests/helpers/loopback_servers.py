"""Mail and web servers on the loopback interface, in threads: small ones of our own, as Python 3.12 has no smtpd."""

from __future__ import annotations

import contextlib
import email
import email.message
import email.policy
import http.server
import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from typing import Any


class MailServer(socketserver.ThreadingTCPServer):
    """Takes mail by SMTP without a login; `refuses` names a command (RCPT, DATA) that gets an error."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, refuses: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _MailHandler)
        self.refuses = refuses
        self.mails: list[email.message.EmailMessage] = []

    @property
    def host(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.server_address[1]}"


class _MailHandler(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        self._reply("220 loopback")
        while line := self.rfile.readline().decode().strip():
            command = line.split()[0].split(":")[0].upper()
            if command == self.server.refuses:
                self._reply("550 not here")
            elif command == "DATA":
                self._reply("354 go on")
                self._take()
            elif command == "QUIT":
                self._reply("221 bye")
                return
            else:
                self._reply("250 ok")

    def _take(self) -> None:
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line[1:] if line.startswith(b".") else line)
        mail = email.message_from_bytes(b"".join(lines), policy=email.policy.default)
        assert isinstance(mail, email.message.EmailMessage)
        self.server.mails.append(mail)
        self._reply("250 taken")

    def _reply(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


class WebServer(http.server.ThreadingHTTPServer):
    """Takes JSON by POST and answers `status`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _WebHandler)
        self.status = status
        self.posts: list[tuple[str, dict[str, Any]]] = []

    @property
    def address(self) -> str:
        """http://HOST:PORT."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _WebHandler(http.server.BaseHTTPRequestHandler):
    server: WebServer

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append((self.path, json.loads(content)))
        self.send_response(self.server.status)
        if self.server.status in (301, 302, 303, 307, 308):
            self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_arguments: object) -> None:
        """Print nothing."""


@contextlib.contextmanager
def serving(server: MailServer | WebServer) -> Iterator[None]:
    """Serve in a thread while the block runs."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """Listen on a port, and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def closed_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
