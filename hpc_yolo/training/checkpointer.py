"""Checkpoints of an attempt: when one is due by step or clock, and the handling of write errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from hpc_yolo.checkpoint.saver import SaveRequest, SaveResult, StateSaver
from hpc_yolo.checkpoint.state import TrainingState, header_texts, named_tensors
from hpc_yolo.checkpoint.store import published, saved_states, state_path
from hpc_yolo.core.errors import FULL, RunError
from hpc_yolo.distributed import World
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, CheckpointSaved, WarningRaised
from hpc_yolo.training.context import TrainingContext
from hpc_yolo.training.phases import Phases
from hpc_yolo.training.resume import read_newest_state

MAX_WRITE_FRACTION = 0.01  # of the time: a slow disk lengthens the interval
TRIES_AT_THE_END = 3
RETRY_S = 2.0


class Checkpointer:
    """Saves the state of all ranks; rank 0 writes. A context manager: its exit waits for pending writes.

    All ranks must call `save_state`, `save_model`, `read_newest` and `finish` alike.
    """

    def __init__(
        self,
        context: TrainingContext,
        world: World,
        run: RunDirectory,
        phases: Phases,
        emit: Callable[[AnyEvent], None],
        before_publish: Callable[[], None] = lambda: None,
    ) -> None:
        """Initialize the checkpointer.

        Args:
            before_publish: called before a finished file gets its name; an error that it raises ends the attempt.
        """
        self._context, self._world, self._run = context, world, run
        self._phases, self._emit = phases, emit
        self._saver = StateSaver(before_publish)
        self._begun_s = time.monotonic()
        self._write_s = 0.0
        self._unsaved: SaveResult | None = None  # the newest state, if it could not be written
        self._unsaved_best: SaveRequest | None = None  # the best model, likewise
        self.wait_copied = self._saver.wait_copied

    def __enter__(self) -> Checkpointer:
        self._saver.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._saver.__exit__()

    @property
    def is_due(self) -> bool:
        """True on rank 0 if the spec's steps have passed, or its seconds and no save is under way."""
        if not self._world.is_main:
            return False
        due, passed_s = self._context.checkpoint, time.monotonic() - self._begun_s
        by_steps = due.every_steps is not None and self._context.position.step % due.every_steps == 0
        by_time = due.every_s is not None and passed_s >= max(due.every_s, self._write_s / MAX_WRITE_FRACTION)
        return by_steps or (by_time and not self._saver.is_busy)

    def save_state(self) -> None:
        """Start saving the current state, after the same step on all ranks.

        Raises:
            TrainingError: a number that is not finite would reach the checkpoint.
        """
        self._phases.saving()
        context, position = self._context, self._context.position
        context.nan_guard.require_finite()
        parts = {name: part.state_dict() for name, part in context.stateful_parts.items()}
        if not self._world.is_main:
            return
        self._retry_best()
        tensors = dict(named_tensors(parts))
        volatile = {name: tensor for name, tensor in tensors.items() if name in context.volatile_names}
        path = state_path(self._run, context.attempt, position.step)
        self._begun_s = time.monotonic()
        self._save(
            SaveRequest(
                path,
                volatile,
                {name: tensor for name, tensor in tensors.items() if name not in volatile},
                header_texts(context.description, parts),
                position.finished_epochs,
                position.step,
                after=lambda: published(self._run, path, context.checkpoint.keep_last),
            )
        )

    def save_model(self, path: Path, epoch: int) -> None:
        """Start saving the averaged model alone."""
        self._phases.saving()
        if self._world.is_main:
            weights = self._context.ema.model.state_dict()
            texts, step = header_texts(self._context.description), self._context.position.step
            self._save(SaveRequest(path, {}, weights, texts, epoch, step, is_kept=path == self._run.best))

    def read_newest(self) -> TrainingState:
        """Return the newest state, after pending writes are durable; there must be one."""
        self._phases.rolling_back()
        self.wait()
        state = read_newest_state(self._run, self._world, self._emit)
        assert state is not None
        return state

    def report(self) -> None:
        """Emit the saves and write errors since the last call; training continues after a write error.

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
        """Wait for pending writes, and report them."""
        self._saver.wait()
        self.report()

    def finish(self) -> None:
        """Wait until the newest state, that of the current step, is durable, and if possible the best model.

        Raises:
            RunError: it cannot be written, after several tries.
        """
        self._phases.saving()
        for _ in range(TRIES_AT_THE_END):
            self._retry_best()
            self.wait()
            if self._unsaved is None and self._unsaved_best is None:
                return
            time.sleep(RETRY_S)
            if self._unsaved is not None:
                self._saver.save(self._unsaved.request)
        self.wait()
        if self._unsaved is not None:
            raise RunError(
                f"the state after step {self._unsaved.request.step} cannot be saved: {self._unsaved.error}; "
                f"{self._last_good()}",
                hint=f"free space for {self._run.path}, then submit the spec again: it resumes from that checkpoint",
            )

    def _save(self, request: SaveRequest) -> None:
        self._saver.save(request)
        self.report()  # of the save that this one had to wait for

    def _retry_best(self) -> None:
        """Save the best model if that has failed before, unless another one is better by now."""
        if self._unsaved_best is None:
            return
        self.wait()
        model, self._unsaved_best = self._unsaved_best, None
        if model.epoch == self._context.evaluations.best_epoch:
            self._save(model)

    def _saved(self, result: SaveResult) -> None:
        request = result.request
        if request.volatile:
            self._write_s, self._unsaved = result.seconds, None
        self._emit(
            CheckpointSaved(
                epoch=request.epoch,
                step=request.step,
                path=str(request.path.relative_to(self._run.path)),
                size_bytes=result.size_bytes,
                seconds=result.seconds,
            )
        )

    def _refused(self, result: SaveResult, error: OSError) -> None:
        if result.request.volatile:
            self._unsaved = result
        if result.request.is_kept:
            self._unsaved_best = result.request
        name = result.request.path.name
        message = f"{name} cannot be saved: {error.strerror or error}; training continues; {self._last_good()}"
        self._emit(WarningRaised(message=message))
        if error.errno in FULL:
            for old in saved_states(self._run)[1:]:
                old.unlink(missing_ok=True)

    def _last_good(self) -> str:
        states = saved_states(self._run)
        return f"the last good checkpoint is {states[0].name}" if states else "there is no checkpoint yet"
