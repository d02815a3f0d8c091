"""A run as an event file of TensorBoard: one record for each row of its series.

`train.tensorboard` lets rank 0 write such files during training; this module makes one of the journal at any time.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpc_yolo.core.files import make_directory
from hpc_yolo.runs.series import Row
from hpc_yolo.tracking.tracker import TrackedRun, Tracker, imported, tracker_errors

LENGTH = struct.Struct("<Q")
CHECKSUM_BYTES = 4


class EventFileTracker(Tracker):
    """Appends whole records; one that a killed process has left incomplete is cut off."""

    def __init__(self) -> None:
        self._path = Path()
        self._events: Any = imported("tensorboard.compat.proto.event_pb2", "tensorboard", "tensorboard")
        self._summaries: Any = imported("tensorboard.compat.proto.summary_pb2", "tensorboard", "tensorboard")
        self._records: Any = imported("tensorboard.summary.writer.record_writer", "tensorboard", "tensorboard")

    @property
    def location(self) -> str:
        """The command that shows the file."""
        return f"tensorboard --logdir {self._path.parent}"

    def open(self, run: TrackedRun) -> int:
        """Count the whole records; make the file if there is none.

        Raises:
            TrackerError: it cannot be read or written.
        """
        directory = run.directory / "tensorboard"
        self._path = directory / f"events.out.tfevents.0.{run.file_name}"  # TensorBoard knows files by this name
        with tracker_errors("tensorboard", OSError):
            make_directory(directory)
            content = self._path.read_bytes() if self._path.exists() else b""
            num_records, whole_bytes = _whole_records(content)
            if whole_bytes < len(content):
                os.truncate(self._path, whole_bytes)
            if not num_records:
                self._append([self._events.Event(wall_time=0.0, file_version="brain.Event:2")])
            return max(num_records - 1, 0)

    def log(self, rows: Sequence[Row]) -> None:
        """Append a record for each of `rows`.

        Raises:
            TrackerError: the file cannot be written.
        """
        with tracker_errors("tensorboard", OSError):
            self._append([self._event(row) for row in rows])

    def _event(self, row: Row) -> Any:
        values = [self._summaries.Summary.Value(tag=name, simple_value=value) for name, value in row.values.items()]
        summary = self._summaries.Summary(value=values)
        return self._events.Event(wall_time=row.time, step=row.step, summary=summary)

    def _append(self, events: Sequence[Any]) -> None:
        with self._path.open("ab") as file:
            writer = self._records.RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString())


def _whole_records(content: bytes) -> tuple[int, int]:
    """Return (number, size in bytes) of the whole records of an event file: length, checksum, data, checksum."""
    num_records = offset = 0
    while len(content) >= offset + LENGTH.size:
        (length,) = LENGTH.unpack_from(content, offset)
        end = offset + LENGTH.size + CHECKSUM_BYTES + length + CHECKSUM_BYTES
        if not length or end > len(content):  # a crash of the machine may leave zeros
            break
        num_records, offset = num_records + 1, end
    return num_records, offset
