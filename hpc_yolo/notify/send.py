"""Send a message by all ways of a spec, at the same time and within a limit, and record it in the run directory.

Nothing that goes wrong here changes the run: it is printed, and recorded in `notices/`.
"""

from __future__ import annotations

import contextlib
import platform
import threading
import time
from collections.abc import Callable, Mapping

import msgspec

from hpc_yolo.cluster.webhook import NoAddress, webhook_address
from hpc_yolo.core.text import printable
from hpc_yolo.notify.message import Message
from hpc_yolo.notify.ways import NotSent, post_webhook, run_command, send_mail
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.notices import FAILED, SENDING, SENT, Notice, claim_notice, write_notice
from hpc_yolo.spec.credentials import without_credentials
from hpc_yolo.spec.notify import NotifySpec

LIMIT_S = 25.0  # for all ways together; a name server, for one, has no timeout of its own
Way = Callable[[NotifySpec, Message, Mapping[str, str]], None]


def ways_of(notify: NotifySpec) -> dict[str, Way]:
    """Return the ways that a spec names, by the name of their field."""
    ways: dict[str, Way] = {"mail": send_mail, "webhook": post_webhook, "command": run_command}
    return {name: way for name, way in ways.items() if getattr(notify, name) is not None}


def send(
    notify: NotifySpec, message: Message, environ: Mapping[str, str], *, limit_s: float = LIMIT_S
) -> dict[str, str]:
    """Send `message` by all ways; return for each "" or why it was not sent.

    Args:
        environ: has the variables that the spec names.
        limit_s: of all of it; a way that takes longer is left behind, in a thread that ends with this process.
    """
    results: dict[str, str] = {}

    def try_way(name: str, way: Way) -> None:
        try:
            way(notify, message, environ)
            results[name] = ""
        except NotSent as error:
            results[name] = str(error)
        except Exception as error:  # a bug here must not end a run; its text may hold a secret
            results[name] = f"{type(error).__name__} in hpc-yolo"

    ways = ways_of(notify)
    threads = [threading.Thread(target=try_way, args=item, daemon=True) for item in ways.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0.0))
    outcomes = {name: results.get(name, f"no end within {limit_s:.0f} s") for name in ways}
    return {name: _without_secrets(text, notify, environ) for name, text in outcomes.items()}


def send_once(
    run: RunDirectory,
    notify: NotifySpec,
    key: str,
    make_message: Callable[[], Message],
    environ: Mapping[str, str],
    *,
    event: str,
    job_id: str | None = None,
    number: int = 1,
) -> Notice | None:
    """Send a message unless this try of it is taken; print and return its record, None where it is taken.

    Args:
        key: of the end or the problem; see `runs.notices`.
        make_message: called when the message is this process's.
        event: its kind, which is sent where the spec asks for it.
        job_id: of the job of this process.
        number: of the try.
    """
    if event not in notify.events:
        return None
    notice = Notice(
        key=key,
        number=number,
        event=event,
        subject="",
        state=SENDING,
        time=time.time(),
        host=platform.node(),
        job_id=job_id,
    )
    try:
        if not claim_notice(run, notice):
            return None
        message = make_message()
        results = send(notify, message, environ)
        state = FAILED if any(results.values()) else SENT
        notice = msgspec.structs.replace(notice, subject=message.subject, state=state, results=results)
        for line in lines_of(notice):
            print(f"hpc-yolo: {line}", flush=True)
        write_notice(run, notice)
    except Exception as error:  # a bug here must not change the end of a run either
        print(f"hpc-yolo: notify: {type(error).__name__}: {error}", flush=True)
    return notice


def lines_of(notice: Notice) -> list[str]:
    """Return a line about each way."""
    return [
        f"notify: {name} about {notice.event}: {f'not sent: {why}' if why else 'sent'}"
        for name, why in notice.results.items()
    ]


def _without_secrets(text: str, notify: NotifySpec, environ: Mapping[str, str]) -> str:
    """Return what a server or a command has printed as one line without the webhook's address and keys."""
    if notify.webhook is not None:
        with contextlib.suppress(NoAddress):
            text = text.replace(webhook_address(notify.webhook, environ), "…")
    return printable(" ".join(without_credentials(text).split()))
