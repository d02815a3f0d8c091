"""When a checkpoint is due, what goes into it, and what becomes of a run whose disk refuses one."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from hpc_yolo.checkpoint.saver import SaveRequest, SaveResult, StateSaver
from hpc_yolo.checkpoint.state import fleeting_tensors, steady_tensors, texts_of
from hpc_yolo.checkpoint.store import published, saved_states, state_path
from hpc_yolo.core.errors import RunError
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, CheckpointSaved, WarningRaised
from hpc_yolo.training.context import TrainingParts

MAX_WRITE_SHARE = 0.01  # of the time: a slow disk stretches the interval
TRIES_AT_THE_END = 3
RETRY_S = 2.0


class Checkpointer:
    """Rank 0's checkpoints of one attempt. A context manager: leaving it waits for what is being written."""

    def __init__(
        self,
        parts: TrainingParts,
        run: RunDirectory,
        tell: Callable[[AnyEvent], None],
        before_publish: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            before_publish: called before a finished file gets its name; what it raises ends the attempt.
        """
        self.parts = parts
        self._run, self._tell = run, tell
        self._saver = StateSaver(before_publish)
        self._begun_s = time.monotonic()
        self._write_s = 0.0
        self._unsaved: SaveResult | None = None  # the newest state, where the disk refused it
        self.wait_copied = self._saver.wait_copied

    def __enter__(self) -> Checkpointer:
        self._saver.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._saver.__exit__()

    @property
    def is_due(self) -> bool:
        """Whether the spec's steps have passed, or its seconds and no save is under way."""
        due, now_s = self.parts.spec.checkpoint, time.monotonic()
        by_steps = due.every_steps is not None and self.parts.progress.step % due.every_steps == 0
        by_time = due.every_s is not None and now_s - self._begun_s >= max(due.every_s, self._write_s / MAX_WRITE_SHARE)
        return by_steps or (by_time and not self._saver.is_busy)

    def save_state(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Begin to save the state as it is now; `gradients` are those that wait for the next optimiser step."""
        parts = self.parts
        progress = parts.progress
        progress.ema_updates = parts.ema.updates
        progress.scaler = parts.scaler.state_dict()
        path = state_path(self._run, progress.attempt, progress.step)
        self._begun_s = time.monotonic()
        self._save(
            SaveRequest(
                path,
                fleeting_tensors(parts.model, gradients),
                steady_tensors(parts.model, parts.ema.model, parts.optimizer),
                texts_of(parts.description, progress),
                progress.finished_epochs,
                progress.step,
                after=lambda: published(self._run, path, parts.spec.checkpoint.keep_last),
            )
        )

    def save_model(self, path: Path, epoch: int) -> None:
        """Begin to save the averaged model alone."""
        weights = self.parts.ema.model.state_dict()
        texts = texts_of(self.parts.description, None)
        self._save(SaveRequest(path, {}, weights, texts, epoch, self.parts.progress.step))

    def report(self) -> None:
        """Tell what has been saved since the last call, and what the disk refused: training goes on without it.

        Raises:
            LeaseError: another attempt has taken over.
        """
        for result in self._saver.results():
            if isinstance(result.error, OSError):
                self._refused(result, result.error)
            elif result.error is not None:
                raise result.error
            else:
                self._saved(result)

    def wait(self) -> None:
        """Wait for what is being written, and tell of it."""
        self._saver.wait()
        self.report()

    def finish(self) -> None:
        """Wait until the newest state, which is that of now, is durable.

        Raises:
            RunError: the disk refuses it, several times.
        """
        for _ in range(TRIES_AT_THE_END):
            self.wait()
            if self._unsaved is None:
                return
            time.sleep(RETRY_S)
            self._saver.save(self._unsaved.request)
        self.wait()
        if self._unsaved is not None:
            raise RunError(
                f"the state after step {self._unsaved.request.step} cannot be saved: {self._unsaved.error}; "
                f"{self._last_good()}",
                hint=f"make room below {self._run.path}, then submit the spec again: it goes on from that checkpoint",
            )

    def _save(self, request: SaveRequest) -> None:
        self._saver.save(request)
        self.report()  # of the save that this one had to wait for

    def _saved(self, result: SaveResult) -> None:
        request = result.request
        if request.fleeting:
            self._write_s, self._unsaved = result.seconds, None
        self._tell(
            CheckpointSaved(
                epoch=request.epoch,
                step=request.step,
                path=str(request.path.relative_to(self._run.path)),
                size_bytes=result.size_bytes,
                seconds=result.seconds,
            )
        )

    def _refused(self, result: SaveResult, error: OSError) -> None:
        if result.request.fleeting:
            self._unsaved = result
        name = result.request.path.name
        words = f"{name} cannot be saved: {error.strerror or error}; training goes on; {self._last_good()}"
        self._tell(WarningRaised(message=words))
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            for old in saved_states(self._run)[1:]:
                old.unlink(missing_ok=True)

    def _last_good(self) -> str:
        states = saved_states(self._run)
        return f"the last good checkpoint is {states[0].name}" if states else "there is no checkpoint yet"
