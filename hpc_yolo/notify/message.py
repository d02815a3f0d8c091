"""The text and the facts of a message about a run. Nothing is sent here."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from typing import Any

import msgspec

from hpc_yolo.core.text import printable
from hpc_yolo.core.units import short_time
from hpc_yolo.monitor.run_record import RunRecord
from hpc_yolo.notify.record import shown_name
from hpc_yolo.runs.attempts import Attempt
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import Evaluated
from hpc_yolo.runs.failures import first_failure
from hpc_yolo.runs.logs import last_output
from hpc_yolo.runs.metrics import METRIC_TITLES
from hpc_yolo.runs.run_end import RunEnd
from hpc_yolo.spec.credentials import without_credentials
from hpc_yolo.spec.notify import CANCELLED, FAILED, FINISHED, PROBLEM
from hpc_yolo.spec.trials import shown

ERROR_LINES = 12
ERROR_CHARACTERS = 300  # of a line
CHAT_LIMIT = 1900  # characters; a chat refuses more than 2000
TEST = "test"
_STYLE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # of a terminal
EXPLAINED = {
    FINISHED: "finished",
    FAILED: "failed",
    CANCELLED: "was cancelled",
    PROBLEM: "needs you",
    TEST: "sends a test",
}


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message about a run.

    Attributes:
        event: finished, failed, cancelled, problem or test.
        reason: the cause of an end, or the problem.
        epochs: done, and of the whole training.
        hours: of all attempts.
        error: the last lines of what went wrong.
        following: what to type next.
        trials, trials_failed: of a sweep.
        best_trial, values: of a sweep, its best trial.
    """

    event: str
    name: str
    directory: str
    reason: str = ""
    epochs_done: int = 0
    epochs: int = 0
    step: int = 0
    attempts: int = 0
    hours: float = 0.0
    gpu_hours: float = 0.0
    best_epoch: int | None = None
    metrics: dict[str, float] = {}
    error: list[str] = []
    following: list[str] = []
    trials: int = 0
    trials_failed: int = 0
    best_trial: str = ""
    values: dict[str, Any] = {}

    @property
    def subject(self) -> str:
        """One line."""
        line = f"{self.name} {EXPLAINED[self.event]}"
        if self.event == FINISHED and self.metrics:
            line += f": mAP50-95 {self.metrics['map50_95']:.3f}"
        elif self.reason and self.event != CANCELLED:
            line += f": {self.reason}"
        return f"[hpc-yolo] {one_line(line)}"

    @property
    def text(self) -> str:
        """Plain text of several lines."""
        lines = [f"{self.name} {EXPLAINED[self.event]}{f': {self.reason}' if self.reason else ''}", ""]
        if self.trials:
            lines.append(f"trials     {self.trials}, {self.trials_failed} failed")
        if self.epochs:
            lines.append(f"trained    {self.epochs_done} of {self.epochs} epochs, step {self.step}")
        if self.attempts:
            device = f", {self.gpu_hours:.1f} GPU hours" if self.gpu_hours else ""
            number = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
            lines.append(f"time       {short_time(self.hours * 3600)} in {number}{device}")
        if self.metrics:
            metrics = ", ".join(f"{METRIC_TITLES[name]} {value:.4f}" for name, value in self.metrics.items())
            trial = f"trial {self.best_trial}, " if self.best_trial else ""
            lines.append(f"best       {trial}epoch {self.best_epoch}: {metrics}")
        if self.values:
            lines.append(f"values     {shown(self.values)}")
        lines.append(f"directory  {self.directory}")
        if self.error:
            lines += ["", *self.error]
        return "\n".join([*lines, "", *(f"next:  {command}" for command in self.following)]).rstrip() + "\n"

    def payload(self) -> bytes:
        """Return the facts as JSON, with the text where chats look for it: `text`, and for Discord `content`."""
        text = f"{self.subject}\n{self.text}"
        chat = text if len(text) <= CHAT_LIMIT else f"{text[: CHAT_LIMIT - 1]}…"
        facts: dict[str, Any] = msgspec.to_builtins(self)
        return json.dumps({"text": text, "content": chat, "subject": self.subject, **facts}).encode()

    def variables(self) -> dict[str, str]:
        """Return the facts for a command, as environment variables."""
        return {
            "HPC_YOLO_EVENT": self.event,
            "HPC_YOLO_NAME": self.name,
            "HPC_YOLO_DIRECTORY": self.directory,
            "HPC_YOLO_REASON": self.reason,
            "HPC_YOLO_SUBJECT": self.subject,
            "HPC_YOLO_TEXT": self.text,
            "HPC_YOLO_EPOCHS": str(self.epochs_done),
            "HPC_YOLO_HOURS": f"{self.hours:.3f}",
            "HPC_YOLO_MAP50_95": f"{self.metrics['map50_95']:.5f}" if self.metrics else "",
        }


def end_message(run: RunDirectory, record: RunRecord, end: RunEnd) -> Message:
    """Return the message about an `end` of `run`."""
    event = FINISHED if end.is_finished else CANCELLED if end.is_by_person else FAILED
    attempt = record.attempts.get(end.attempt)
    detail = attempt.detail if attempt is not None else ""
    reason = "" if event == FINISHED else end.cause or "for an unknown cause"
    return _message(
        run,
        record,
        event=event,
        reason=reason,
        error=_error_lines(run, attempt, detail) if event == FAILED else [],
        following=[_typed("report", run)] if event == FINISHED else [_typed("logs", run), _typed("resume", run)],
    )


def problem_message(
    run: RunDirectory, record: RunRecord, problem: str, following: Sequence[str] = (), error: Sequence[str] = ()
) -> Message:
    """Return the message about a `problem` of `run`."""
    commands = list(following) or [_typed("status", run, "--root", str(run.path.parent)), _typed("logs", run)]
    return _message(run, record, event=PROBLEM, reason=problem, following=commands, error=list(error))


def message_of_test(name: str, directory: str) -> Message:
    """Return a message that tries whether messages arrive."""
    return Message(
        event=TEST,
        name=name,
        directory=directory,
        reason="messages about this run arrive here",
        following=["hpc-yolo submit SPEC" if not directory else shlex.join(["hpc-yolo", "follow", directory])],
    )


def one_line(text: str, limit: int = 150) -> str:
    """Return `text` in one line of at most `limit` characters."""
    return cut(" ".join(text.split()), limit)


def cut(line: str, limit: int) -> str:
    """Return at most `limit` characters of `line`."""
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _message(run: RunDirectory, record: RunRecord, **fields: Any) -> Message:
    started, best = record.started, record.best
    seconds, gpu_seconds, num_attempts = times_of(record)
    ended = None if record.attempts.newest is None else record.attempts.newest.ended
    step = max(record.attempts.last_step, 0 if ended is None else ended.step)
    return Message(
        name=shown_name(run),
        directory=str(run.path),
        epochs_done=step // started.steps_per_epoch if started is not None and started.steps_per_epoch else 0,
        epochs=0 if started is None else started.epochs,
        step=step,
        attempts=num_attempts,
        hours=seconds / 3600,
        gpu_hours=gpu_seconds / 3600,
        best_epoch=None if best is None else best.epoch + 1,
        metrics={} if best is None else metrics_of(best),
        **fields,
    )


def times_of(record: RunRecord) -> tuple[float, float, int]:
    """Return (seconds of all attempts, the same times their GPUs, number of attempts)."""
    trained = [attempt for attempt in record.attempts if attempt.newest is not None]
    seconds = sum(max(attempt.end - attempt.begin, 0.0) for attempt in trained)
    started = record.started
    num_gpus = 0 if started is None or started.device == "cpu" else started.world_size
    return seconds, seconds * num_gpus, len(trained)


def metrics_of(best: Evaluated) -> dict[str, float]:
    """Return the metrics of an evaluation by name."""
    return dict(zip(METRIC_TITLES, best.metrics.values(), strict=True))


def _error_lines(run: RunDirectory, attempt: Attempt | None, detail: str) -> list[str]:
    """Return what went wrong: of the first rank that failed, else the recorded detail and the end of the output."""
    failure = first_failure(run, 0.0 if attempt is None else attempt.begin)
    if failure is not None:
        return _readable(failure.text.splitlines()[-ERROR_LINES:])
    return _readable([*([detail] if detail else []), *last_output(run, ERROR_LINES)[0]])


def _readable(lines: Sequence[str]) -> list[str]:
    """Return lines of output without keys, control characters and endless lines, which mail and chats refuse."""
    # The search for keys takes a time that grows with the square of a line: more than what is shown, but not all of it.
    text = _STYLE.sub("", without_credentials("\n".join(line[: 10 * ERROR_CHARACTERS] for line in lines)))
    return [cut(printable(line.expandtabs()), ERROR_CHARACTERS) for line in text.split("\n") if line]


def _typed(command: str, run: RunDirectory, *options: str) -> str:
    return shlex.join(["hpc-yolo", command, *(options or (str(run.path),))])
