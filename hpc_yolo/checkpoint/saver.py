"""Saving in the background: the state is copied during the next step and written by a thread.

One save is under way at a time; the next one waits for it, so that memory stays bounded by one copy of the state. The
thread runs at a low priority: on a machine with few cores it would otherwise slow down the step.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from hpc_yolo.checkpoint.file import write_file

NICENESS = 10


@dataclass(frozen=True)
class SaveRequest:
    """One file to write.

    Attributes:
        volatile: tensors that the next forward pass may change.
        stable: tensors that only the next optimiser step changes.
        after: called when the file is durable.
        is_kept: if it cannot be written, the request in its result has copies of the tensors, to save them later.
    """

    path: Path
    volatile: Mapping[str, torch.Tensor]
    stable: Mapping[str, torch.Tensor]
    texts: Mapping[str, str]
    epoch: int
    step: int
    after: Callable[[], None] = lambda: None
    is_kept: bool = False


@dataclass(frozen=True)
class SaveResult:
    """Result of a request. `seconds`: from the request to the last durable byte."""

    request: SaveRequest
    seconds: float
    size_bytes: int = 0
    error: Exception | None = None


@dataclass
class _Copies:
    """Tensors on the host, allocated once for each name."""

    buffers: dict[str, torch.Tensor] = field(default_factory=dict)

    def of(self, tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        return [self._buffer(name, tensor) for name, tensor in tensors.items()]

    def kept(self, request: SaveRequest) -> SaveRequest:
        """Return `request` with tensors that nothing changes any more."""
        volatile, stable = (
            {name: self.buffers[name].clone() for name in tensors} for tensors in (request.volatile, request.stable)
        )
        return replace(request, volatile=volatile, stable=stable)

    def _buffer(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        buffer = self.buffers.get(name)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self.buffers[name] = buffer
        return buffer


class StateSaver:
    """Writes checkpoints of one rank. A context manager: its exit waits for the save under way."""

    def __init__(self, before_publish: Callable[[], None] = lambda: None) -> None:
        """Initialize the state saver.

        Args:
            before_publish: called when a file is durable, before its rename; an error that it raises prevents it.
        """
        self._before_publish = before_publish
        self._copies = _Copies()
        self._requests: queue.Queue[tuple[SaveRequest, float, torch.cuda.Event | None] | None] = queue.Queue()
        self._results: queue.SimpleQueue[SaveResult] = queue.SimpleQueue()
        self._copied, self._idle = threading.Event(), threading.Event()
        self._copied.set()
        self._idle.set()
        self._device_copy: torch.cuda.Event | None = None
        self._thread = threading.Thread(target=self._work, name="checkpoint", daemon=True)

    def __enter__(self) -> StateSaver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.put(None)
        self._thread.join()

    @property
    def is_busy(self) -> bool:
        """True while a save is under way."""
        return not self._idle.is_set()

    def save(self, request: SaveRequest) -> None:
        """Start a save, after the one under way has ended."""
        started_s = time.monotonic()
        self.wait()
        self._idle.clear()
        device_copy = None
        if any(tensor.is_cuda for tensor in request.stable.values()):
            device_copy = self._device_copy = self._begin_device_copy(request)
        else:
            _copy(self._copies.of(request.volatile), request.volatile)
            self._copied.clear()
        self._requests.put((request, started_s, device_copy))

    def wait_copied(self) -> None:
        """Wait until the stable tensors are copied, before they change. On a GPU its stream waits, not this thread."""
        self._copied.wait()
        if self._device_copy is not None:
            torch.cuda.current_stream().wait_event(self._device_copy)
            self._device_copy = None

    def wait(self) -> None:
        """Wait until no save is under way."""
        self._idle.wait()

    def results(self) -> list[SaveResult]:
        """Return the results of the saves that have ended since the last call."""
        ended = []
        while not self._results.empty():
            ended.append(self._results.get())
        return ended

    def _begin_device_copy(self, request: SaveRequest) -> torch.cuda.Event:
        """Queue the copy from the GPU on a second stream; the next forward pass waits only for the volatile tensors."""
        current = torch.cuda.current_stream()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            _copy(self._copies.of(request.volatile), request.volatile)
            current.wait_event(stream.record_event())
            _copy(self._copies.of(request.stable), request.stable)
            copied: torch.cuda.Event = stream.record_event()
            return copied

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        # With OpenMP threads of this thread too there would be more than cores, and those of the training loop would
        # sleep at every barrier instead of spinning: a third of its speed, for the rest of the run.
        torch.set_num_threads(1)
        while (item := self._requests.get()) is not None:
            request, started_s, device_copy = item
            size_bytes, error = 0, None
            try:
                size_bytes = self._write(request, device_copy)
            except Exception as caught:  # handled by the training loop
                error = caught
                request = self._copies.kept(request) if request.is_kept else request
            finally:
                self._copied.set()
                self._results.put(SaveResult(request, time.monotonic() - started_s, size_bytes, error))
                self._idle.set()

    def _write(self, request: SaveRequest, device_copy: torch.cuda.Event | None) -> int:
        stable = self._copies.of(request.stable)
        if device_copy is not None:
            device_copy.synchronize()
        else:
            _copy(stable, request.stable)
        self._copied.set()
        tensors = dict(zip(request.stable, stable, strict=True))
        tensors |= {name: self._copies.buffers[name] for name in request.volatile}
        size_bytes = write_file(request.path, tensors, request.texts, self._before_publish)
        request.after()
        return size_bytes


def _copy(buffers: list[torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
    if buffers:
        torch._foreach_copy_(buffers, list(tensors.values()), non_blocking=True)
