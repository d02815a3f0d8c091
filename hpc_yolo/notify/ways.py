"""The ways by which a message reaches people: mail, a webhook, a command. Each raises `NotSent`, without a secret.

An address of a webhook is a secret at many services: it is read from the environment or a file here and nowhere kept.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Mapping

from hpc_yolo.cluster.webhook import NoAddress, webhook_address
from hpc_yolo.notify.message import Message
from hpc_yolo.spec.notify import NotifySpec

TIMEOUT_S = 10.0  # for each answer of a server
COMMAND_TIMEOUT_S = 20.0
SENDMAIL_DIRECTORIES = ("/usr/sbin", "/usr/lib", "/sbin")
SMTP_PORT = 25


class NotSent(Exception):
    """The message was not sent; the text says why, and holds no secret."""


def send_mail(notify: NotifySpec, message: Message, environ: Mapping[str, str]) -> None:
    """Send `message` by the SMTP host of the spec, else by the sendmail of this host, else by localhost.

    The sender is the first recipient: a mail host often refuses the name of a compute node.

    Raises:
        NotSent: no host takes it.
    """
    from email.message import EmailMessage  # with smtplib 40 ms
    from email.utils import formatdate, make_msgid

    mail = EmailMessage()
    mail["Subject"] = message.subject
    mail["From"] = f"hpc-yolo <{notify.recipients[0]}>"
    mail["To"] = ", ".join(notify.recipients)
    mail["Date"] = formatdate()
    mail["Message-ID"] = make_msgid(domain=platform.node())  # its default asks the name server, which may hang
    mail["Auto-Submitted"] = "auto-generated"  # no answers by programs that are away
    mail.set_content(message.text)
    path = ":".join([environ.get("PATH", ""), *SENDMAIL_DIRECTORIES])
    if notify.smtp is None and (sendmail := shutil.which("sendmail", path=path)) is not None:
        _run([sendmail, "-i", "-f", notify.recipients[0], "--", *notify.recipients], mail.as_bytes(), environ)
        return

    import smtplib

    host, port = split_host(notify.smtp or "localhost")
    try:
        with smtplib.SMTP(host, port, local_hostname=platform.node(), timeout=TIMEOUT_S) as server:
            server.send_message(mail, notify.recipients[0], notify.recipients)
    except smtplib.SMTPRecipientsRefused as error:
        reasons = "; ".join(f"{code} {text.decode(errors='replace')}" for code, text in error.recipients.values())
        raise NotSent(f"{host}:{port} refuses the recipients: {reasons}") from None
    except (OSError, smtplib.SMTPException) as error:
        raise NotSent(f"{host}:{port}: {_reason(error)}") from None


def split_host(written: str) -> tuple[str, int]:
    """Return the host and the port of HOST, HOST:PORT or [ADDRESS]:PORT."""
    host, colon, port = written.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = written, str(SMTP_PORT)
    return host.strip("[]"), int(port)


def post_webhook(notify: NotifySpec, message: Message, environ: Mapping[str, str]) -> None:
    """Send the facts of `message` as JSON to the webhook of the spec.

    Raises:
        NotSent: the server does not take it.
    """
    import http.client  # with urllib.request 50 ms
    import urllib.error
    import urllib.request

    try:
        address = webhook_address(notify.webhook or "", environ)
    except NoAddress as error:
        raise NotSent(str(error)) from None
    headers = {"Content-Type": "application/json", "User-Agent": "hpc-yolo"}

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_arguments: object) -> None:
            """Follow none: what another address gets is a GET without the message."""

    try:
        request = urllib.request.Request(address, message.payload(), headers, method="POST")
        with urllib.request.build_opener(NoRedirect).open(request, timeout=TIMEOUT_S) as response:
            response.read(1)
    except urllib.error.HTTPError as error:
        error.close()
        raise NotSent(f"the server answers {error.code}") from None
    except urllib.error.URLError as error:
        raise NotSent(_reason(error.reason)) from None
    except (ValueError, http.client.InvalidURL):  # whose texts have the address in them
        raise NotSent("the address is not valid") from None
    except (OSError, http.client.HTTPException) as error:
        raise NotSent(_reason(error)) from None


def run_command(notify: NotifySpec, message: Message, environ: Mapping[str, str]) -> None:
    """Run the command of the spec with the facts of `message`, and end it where it takes too long.

    Raises:
        NotSent: it fails.
    """
    variables = {**environ, **message.variables()}
    _run(notify.shell_command, message.payload() + b"\n", variables, directory=message.directory)


def _run(command: list[str], content: bytes, environ: Mapping[str, str], directory: str = "") -> None:
    """Run `command` with `content` on its standard input.

    Raises:
        NotSent: it cannot be started, fails, or has not ended in time; all its processes are ended then.
    """
    pipe = subprocess.PIPE
    try:
        child = subprocess.Popen(
            command,
            stdin=pipe,
            stdout=subprocess.DEVNULL,
            stderr=pipe,
            env=dict(environ),
            cwd=directory or None,
            start_new_session=True,
        )
    except OSError as error:
        raise NotSent(f"{command[0]}: {error.strerror}") from None
    try:
        _, errors = child.communicate(content, COMMAND_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise NotSent(f"not ended after {COMMAND_TIMEOUT_S:.0f} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):  # also what it has left in the background
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for stream in (child.stdin, child.stderr):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
    if child.returncode:
        lines = errors.decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        raise NotSent(f"exit code {child.returncode}{f': {last[:200]}' if last else ''}")


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError) or "timed out" in str(error):
        return f"no answer within {TIMEOUT_S:.0f} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)[:200] or type(error).__name__
