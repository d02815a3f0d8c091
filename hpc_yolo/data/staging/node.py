"""The staging of one node: a thread of one of its processes finds a directory, copies or waits for another's copy."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.core.units import short_bytes
from hpc_yolo.data.staging.copying import CopyProgress, StopCopying, copy_files, missing_files
from hpc_yolo.data.staging.directory import CopyLock, StagedCopy, private_directory, remove_unused
from hpc_yolo.data.staging.plan import StagePlan, plan_copy
from hpc_yolo.data.staging.room import is_in_memory, require_room
from hpc_yolo.data.staging.where import stage_directories

WAIT_S = 0.2


@dataclass(frozen=True)
class StageRequest:
    """What a node is to stage.

    Attributes:
        stage: the value of `data.stage`, not off.
        size_limit_bytes: larger datasets are not copied; None for no limit.
        source: the dataset, for messages and records.
        list_files: returns the paths of all files; may raise DataError.
    """

    stage: str
    size_limit_bytes: int | None
    source: str
    list_files: Callable[[], Iterable[str]]


@dataclass(frozen=True)
class StageResult:
    """The result of a node.

    Attributes:
        files: directory below which the copies are, at the paths of their files; "" where there is no copy.
        why_not: why there is none, a phrase.
    """

    files: str = ""
    why_not: str = ""


class NodeStaging:
    """Stages in a thread, from `start` on; `result` is None until that is over."""

    def __init__(self, request: StageRequest, environ: Mapping[str, str]) -> None:
        self.result: StageResult | None = None
        self.error: BaseException | None = None
        self.progress = CopyProgress()
        self._request = request
        self._environ = environ
        self._held: tuple[StagedCopy, CopyLock] | None = None
        self._being_made: StagedCopy | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="staging", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Wait for the end, at most `timeout_s`; and let other processes that wait know how far the copy is."""
        self._thread.join(timeout_s)
        if (copy := self._being_made) is not None:
            copy.write_progress(self.progress.done_bytes)

    def give_up(self, why: str) -> None:
        """End without a copy, even if the thread hangs in a file system."""
        self.progress.is_stopped.set()
        self._end(StageResult(why_not=why))

    def close(self, *, is_over: bool) -> None:
        """Give the copy back.

        Args:
            is_over: nobody on this node reads it for this attempt any more: a copy in memory is removed if no other
                process uses it. One on a disk stays for the next attempt.
        """
        with self._lock:
            held, self._held = self._held, None
        if held is None:
            return
        copy, lock = held
        with contextlib.suppress(OSError):
            if is_over and is_in_memory(copy.parent) and lock.try_exclusive():
                copy.remove()
        lock.close()

    def _end(self, result: StageResult) -> None:
        with self._lock:
            self.result = self.result or result

    def _work(self) -> None:
        try:
            self._end(self._stage())
        except StopCopying:
            self._end(StageResult(why_not="it was stopped"))
        except HpcYoloError as error:
            self._end(StageResult(why_not=error.message))
        except OSError as error:
            self._end(StageResult(why_not=_described(error)))
        except BaseException as error:
            self.error = error
            self._end(StageResult())

    def _stage(self) -> StageResult:
        request = self._request
        directories = stage_directories(request.stage, self._environ)
        plan = plan_copy(request.list_files(), self.progress.add)
        self.progress.total_bytes = plan.total_bytes
        limit_bytes = request.size_limit_bytes
        if limit_bytes is not None and plan.total_bytes > limit_bytes:
            sizes = f"{short_bytes(plan.total_bytes)} are more than data.size_limit, {short_bytes(limit_bytes)}"
            return StageResult(why_not=sizes)
        reasons = []
        for directory in directories:
            try:
                return self._stage_in(directory, plan)
            except HpcYoloError as error:
                reasons.append(error.message)
            except OSError as error:
                reasons.append(_described(error))
        return StageResult(why_not="; ".join(reasons))

    def _stage_in(self, directory: Path, plan: StagePlan) -> StageResult:
        """Return the result with a copy in `directory`, made by this process or by another one.

        Raises:
            OSError, DataError: there cannot be one.
            StopCopying: it was stopped.
        """
        parent = private_directory(directory)
        remove_unused(parent, keep=plan.digest)
        copy = StagedCopy(parent, plan.digest)
        while (lock := self._try(copy, plan)) is None:
            self.progress.done_bytes, before = copy.read_progress(), self.progress.done_bytes
            if self.progress.done_bytes != before:
                self.progress.num_steps += 1
            if self.progress.is_stopped.wait(WAIT_S):
                raise StopCopying
        with self._lock:
            if self.result is not None:
                lock.close()
                raise StopCopying
            self._held = copy, lock
        self.progress.done_bytes = plan.total_bytes
        return StageResult(files=str(copy.files))

    def _try(self, copy: StagedCopy, plan: StagePlan) -> CopyLock | None:
        """Return the lock of `copy`, held shared, when it is complete; None if another process works on it."""
        lock = copy.lock()
        try:
            if copy.record is None and lock.try_exclusive() and copy.record is None:
                self._make(copy, plan)
            if lock.try_shared() and copy.record is not None:
                is_whole = next(missing_files(plan, copy), None) is None
                if not is_whole and lock.try_exclusive():  # whatever cleans a /tmp has removed files
                    copy.invalidate()
                # While others use it, it stays as it is: an image without a copy is read from the dataset. A lock that
                # could not become exclusive is lost.
                elif is_whole or (lock.try_shared() and copy.record is not None):
                    lock.touch()
                    return lock
        except BaseException:
            lock.close()
            raise
        lock.close()
        return None

    def _make(self, copy: StagedCopy, plan: StagePlan) -> None:
        """Make `copy`, whose lock is held exclusively.

        Raises:
            OSError, DataError: it cannot be made; nothing is left of it.
            StopCopying: it was stopped; what was copied stays.
        """
        try:
            copy.start()
            missing = list(missing_files(plan, copy))
            needed_bytes = sum(file.size_bytes - has_bytes for file, has_bytes in missing)
            self._require_room(copy, needed_bytes, len(missing))
            self.progress.done_bytes = plan.total_bytes - needed_bytes
            self._being_made = copy
            copy_files([file for file, _ in missing], copy, self.progress)
            copy.complete(plan, self._request.source)
        except (OSError, HpcYoloError):
            self._being_made = None
            copy.remove()
            raise
        finally:
            self._being_made = None

    def _require_room(self, copy: StagedCopy, needed_bytes: int, num_files: int) -> None:
        """Check the room for `copy`, for which unused copies are removed."""
        try:
            require_room(copy.path, needed_bytes, num_files)
        except HpcYoloError:
            if not remove_unused(copy.parent, keep=copy.digest, min_unused_s=0):
                raise
            require_room(copy.path, needed_bytes, num_files)


def _described(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
