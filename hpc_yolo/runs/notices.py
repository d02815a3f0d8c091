"""Records of the messages that a run has sent to people: one file a try, written by the process that sends it.

`notices/<key>.<number>.json`: `key` is the end of the run or the problem, `number` counts the tries. The file is
created exclusively, so that of several processes that see the same end only one sends the message.
"""

from __future__ import annotations

import os
import re

import msgspec

from hpc_yolo.core.files import create_exclusive, make_directory, read_struct, write_struct
from hpc_yolo.runs.directory import RunDirectory

SENDING, SENT, FAILED = "sending", "sent", "failed"
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was sent, or could not be.

    Attributes:
        key: of the end or the problem; see `end_key` and `problem_key`.
        number: of the try, from 1.
        event: finished, failed, cancelled or problem; "" for the end of a trial, of which no message is sent.
        state: sending, sent, or failed where at least one way did.
        results: by way (mail, webhook, command): "" where it succeeded, else why not.
        time: when it was begun, in seconds since 1970.
    """

    key: str
    number: int
    event: str
    subject: str
    state: str
    time: float
    host: str = ""
    job_id: str | None = None
    results: dict[str, str] = {}


def end_key(attempt: int, job_id: str | None) -> str:
    """Return the key of an end of a run.

    Args:
        attempt: with which the run ended.
        job_id: the job that ended, where none of its attempts is in the journal.
    """
    return f"end-{attempt}" if job_id is None else f"end-{attempt}-{_UNSAFE.sub('_', job_id)}"


def problem_key(kind: str) -> str:
    """Return the key of a kind of problem, which is reported once in a run."""
    return f"problem-{_UNSAFE.sub('-', kind)}"


def claim_notice(run: RunDirectory, notice: Notice) -> bool:
    """Write `notice` if this try has none; return False where another process has it.

    Raises:
        OSError: it cannot be written.
    """
    make_directory(run.notices)
    return create_exclusive(run.notices / _name(notice), msgspec.json.encode(notice) + b"\n")


def write_notice(run: RunDirectory, notice: Notice) -> None:
    """Replace a notice by its claimant's newer one.

    Raises:
        OSError: it cannot be written.
    """
    write_struct(run.notices / _name(notice), notice)


def read_notices(run: RunDirectory) -> list[Notice]:
    """Return all notices, oldest first; files that cannot be read are skipped."""
    try:
        names = sorted(os.listdir(run.notices))  # noqa: PTH208, many runs of a screen have none
    except OSError:
        return []
    found = (read_struct(run.notices / name, Notice) for name in names if name.endswith(".json"))
    return sorted((notice for notice in found if notice is not None), key=lambda notice: notice.time)


def notice_keys(run: RunDirectory) -> set[str]:
    """Return the keys of all notices, without reading them."""
    try:
        names = os.listdir(run.notices)  # noqa: PTH208, a sweep has one for each trial
    except OSError:
        return set()
    return {name.rsplit(".", 2)[0] for name in names if name.endswith(".json")}


def _name(notice: Notice) -> str:
    return f"{notice.key}.{notice.number}.json"
