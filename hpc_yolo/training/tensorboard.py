"""The metrics of the journal as TensorBoard event files."""

from __future__ import annotations

import contextlib
import platform
import sys
from typing import TYPE_CHECKING

from hpc_yolo.core.errors import SpecError
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, AttemptStarted, Evaluated, StepLogged
from hpc_yolo.runs.series import scalars_of

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class EventFiles:
    """Writes the metrics of one attempt's events, by step, in a thread of TensorBoard's."""

    def __init__(self, run: RunDirectory) -> None:
        """Initialize the event files.

        Raises:
            SpecError: TensorBoard is not installed.
        """
        try:
            # Most runs do not need it, and few machines have it.
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise SpecError(
                f"train.tensorboard: the package tensorboard cannot be used on {platform.node()}: {error}",
                hint="pip install 'hpc-yolo[tensorboard]', or --set train.tensorboard=false",
            ) from error
        self._new_writer = SummaryWriter
        self._directory = str(run.tensorboard)
        self._writer: SummaryWriter | None = None

    def add(self, event: AnyEvent) -> None:
        """Write the metrics of `event`, at its time. Steps that an attempt repeats replace the old ones.

        After a write error no further files are written; training continues.
        """
        try:
            if isinstance(event, AttemptStarted):
                self._writer = self._new_writer(self._directory, purge_step=event.step + 1)
            elif self._writer is not None and isinstance(event, (StepLogged, Evaluated)):
                for name, value in scalars_of(event).items():
                    if value is not None:
                        self._writer.add_scalar(name, value, event.step, walltime=event.time)
        except OSError as error:
            self._writer = None
            print(f"{self._directory}: no further TensorBoard files: {error.strerror or error}", file=sys.stderr)

    def close(self) -> None:
        """Write the remaining events and close the files."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
