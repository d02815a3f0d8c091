"""A run as one CSV file: a line for each row of its series, and a column for each name."""

from __future__ import annotations

import csv
import errno
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from hpc_yolo.core.files import write_atomic
from hpc_yolo.runs.series import Row
from hpc_yolo.tracking.tracker import TrackedRun, Tracker, tracker_errors

STEP, TIME = "step", "time"


class CsvTracker(Tracker):
    """Appends whole lines; a line that a killed process has left incomplete is cut off."""

    def __init__(self) -> None:
        self._path = Path()
        self._columns: list[str] = []

    @property
    def location(self) -> str:
        """The path of the file."""
        return str(self._path)

    def open(self, run: TrackedRun) -> int:
        """Read the columns and the number of lines; make the file if there is none.

        Raises:
            TrackerError: it cannot be read or written.
        """
        self._path = run.directory / f"{run.file_name}.csv"
        with tracker_errors("csv", OSError):
            if not self._path.exists():
                write_atomic(self._path, "")
            whole_bytes = self._path.read_bytes().rfind(b"\n") + 1
            os.truncate(self._path, whole_bytes)
            lines = self._lines()
            self._columns = lines[0] if lines else []
            return max(len(lines) - 1, 0)

    def log(self, rows: Sequence[Row]) -> None:
        """Append a line for each of `rows`; the first with a new name rewrites the file with one more column.

        Raises:
            TrackerError: the file cannot be written.
        """
        names = dict.fromkeys(name for row in rows for name in row.values)
        added = [name for name in (STEP, TIME, *names) if name not in self._columns]
        with tracker_errors("csv", OSError):
            if added:
                old = self._lines()[1:]
                self._columns += added
                write_atomic(self._path, _text([self._columns, *(line + [""] * len(added) for line in old)]))
            with self._path.open("ab", buffering=0) as file:
                content = _text(map(self._line, rows)).encode()
                if file.write(content) != len(content):
                    raise OSError(errno.ENOSPC, "only part of the lines was written", str(self._path))
                os.fsync(file.fileno())

    def _line(self, row: Row) -> list[str]:
        values = {STEP: row.step, TIME: row.time, **row.values}
        return [str(values.get(name, "")) for name in self._columns]

    def _lines(self) -> list[list[str]]:
        try:
            with self._path.open(newline="", encoding="utf-8") as file:
                return list(csv.reader(file))
        except (UnicodeDecodeError, csv.Error):  # another program has saved it
            raise OSError(errno.EILSEQ, "no CSV file in UTF-8; move it away for a new one", str(self._path)) from None


def _text(lines: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
