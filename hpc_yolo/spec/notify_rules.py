"""Rules for the section `notify` that the type of one field cannot express, and the syntax of its command."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hpc_yolo.core.errors import SpecError
from hpc_yolo.spec.notify import NotifySpec
from hpc_yolo.spec.problems import Finding
from hpc_yolo.spec.shell import syntax_problem

WEBHOOK_FORMS = "${VARIABLE}, file:PATH of a file with mode 600, or an address without a secret"
_ADDRESS = re.compile(r"[^@\s,;<>()]+@[^@\s,;<>()]+")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*)(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_WEBHOOK = re.compile(r"(https?://[^/\s]+|\$|file:[^\s])\S*")


def notify_findings(notify: NotifySpec | None) -> Iterator[Finding]:
    """Yield what is wrong with the section `notify` of a spec."""
    if notify is None:
        return
    if notify.mail is None and notify.webhook is None and notify.command is None:
        needs = ("notify.mail", "notify.webhook", "notify.command")
        yield Finding("notify", "names no way to send a message", "at least one of mail, webhook, command", needs)
    if notify.mail is not None and not notify.recipients:
        yield Finding("notify.mail", "is empty", "such as me@example.org")
    for address in notify.recipients:
        if not _ADDRESS.fullmatch(address):
            yield Finding("notify.mail", f"{address!r} is not a mail address", "such as me@example.org")
    if notify.smtp is not None and not is_host(notify.smtp):
        allowed = "HOST or HOST:PORT, which takes mail without a login"
        yield Finding("notify.smtp", f"{notify.smtp!r} is not a host", allowed)
    if notify.webhook is not None and not _WEBHOOK.fullmatch(notify.webhook):
        yield Finding("notify.webhook", f"{notify.webhook!r} is not an address", WEBHOOK_FORMS)
    if notify.command is not None and not any(word.strip() for word in notify.shell_command[-1:]):
        yield Finding("notify.command", "is empty", "a line of bash, or a list of words")
    if not notify.events:
        yield Finding("notify.on", "is empty", "finished, failed, cancelled, problem; or leave out notify")


def is_host(written: str) -> bool:
    """Return True for HOST or HOST:PORT."""
    return _HOST.fullmatch(written) is not None


def require_shell_command(notify: NotifySpec) -> None:
    """Refuse lines of bash that bash cannot read.

    Raises:
        SpecError: with the number of the line and the message of bash.
    """
    if isinstance(notify.command, str) and (problem := syntax_problem(notify.command.split("\n"))):
        raise SpecError(f"notify.command: {problem}", hint="bash -n checks shell lines in a file")
