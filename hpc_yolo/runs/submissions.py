"""Which jobs a run was given to: one line a submission, written by the submitting command."""

from __future__ import annotations

import msgspec

from hpc_yolo.fileio import append_json_line, read_json_lines
from hpc_yolo.runs.directory import RunDirectory


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A job that was started or queued. `time` in seconds since 1970; `host` is where it was submitted."""

    time: float
    executor: str
    job_id: str
    host: str
    num_nodes: int
    tasks_per_node: int
    gpus_per_node: int


def add_submission(run: RunDirectory, submission: Submission) -> None:
    """Append `submission`.

    Raises:
        OSError: the file system refuses.
    """
    append_json_line(run.submissions, msgspec.to_builtins(submission))


def last_submission(run: RunDirectory) -> Submission | None:
    """The newest submission; None for a run that was started by hand."""
    newest = None
    for record in read_json_lines(run.submissions):
        try:
            newest = msgspec.convert(record, Submission)
        except msgspec.ValidationError:
            continue  # of another version
    return newest
