"""The exchange between the watchdogs of all ranks, over the attempt's store.

Every watchdog publishes its rank's heartbeat about once a second. An operation on a store may block for ever (its
server, rank 0 or torchrun's agent, may be stopped), so each has a limit here.
"""

from __future__ import annotations

import concurrent.futures
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import msgspec
from torch._C._distributed_c10d import Store

from hpc_yolo.training.watchdog.diagnosis import Diagnosis, Heartbeat

T = TypeVar("T")
OPERATION_S = 2.0
CLOSE_S = 1.0


class StoreUnavailable(Exception):
    """The store does not respond in time, or its server is gone."""


class HeartbeatStore:
    """A store whose operations have a time limit; they run in a separate thread, one after the other.

    Each method raises StoreUnavailable if its operation exceeds the limit or fails. While one hangs, and after one has
    failed (the connection is lost), no further ones are tried.
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self._store = store
        self._rank, self._world_size = rank, world_size
        self._requests: queue.SimpleQueue[tuple[Callable[[Store], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._latest: Future[Any] = Future()
        self._latest.set_result(None)
        self._is_broken = False
        self._thread = threading.Thread(target=self._work, name="watchdog store", daemon=True)
        self._thread.start()

    def publish(self, heartbeat: Heartbeat) -> Diagnosis | None:
        """Publish this rank's heartbeat; return the diagnosis with which the attempt was given up, if it was."""

        def operation(store: Store) -> Diagnosis | None:
            store.set(f"heartbeat/{self._rank}", msgspec.json.encode(heartbeat).decode())
            return msgspec.json.decode(store.get("diagnosis"), type=Diagnosis) if store.check(["diagnosis"]) else None

        return self._run(operation)

    def read_all(self) -> dict[int, Heartbeat]:
        """Return the newest heartbeat of every rank that has published one."""

        def operation(store: Store) -> dict[int, Heartbeat]:
            keys = {rank: f"heartbeat/{rank}" for rank in range(self._world_size)}
            if not store.check(list(keys.values())):
                keys = {rank: key for rank, key in keys.items() if store.check([key])}
            contents = store.multi_get(list(keys.values()))
            return {
                rank: msgspec.json.decode(content, type=Heartbeat) for rank, content in zip(keys, contents, strict=True)
            }

        return self._run(operation)

    def give_up(self, diagnosis: Diagnosis) -> Diagnosis:
        """Give up the attempt; return the first diagnosis of all ranks."""

        def operation(store: Store) -> Diagnosis:
            first = store.compare_set("diagnosis", "", msgspec.json.encode(diagnosis).decode())
            return msgspec.json.decode(first, type=Diagnosis)

        return self._run(operation)

    def confirm_stacks(self) -> None:
        """Publish that this rank's stacks are written."""
        self._run(lambda store: store.set(f"stacks/{self._rank}", "1"))

    def have_stacks(self, ranks: Sequence[int]) -> bool:
        """Return whether the stacks of all `ranks` are written."""
        return self._run(lambda store: store.check([f"stacks/{rank}" for rank in ranks]))

    def close(self) -> None:
        """End the thread, unless an operation hangs in it."""
        self._requests.put(None)
        self._thread.join(CLOSE_S)

    def _run(self, operation: Callable[[Store], T]) -> T:
        done, _ = concurrent.futures.wait([self._latest], OPERATION_S)
        if not done or self._is_broken:
            raise StoreUnavailable
        future: Future[T] = Future()
        self._latest = future
        self._requests.put((operation, future))
        try:
            return future.result(OPERATION_S)
        except (concurrent.futures.TimeoutError, RuntimeError) as error:  # torch's errors of stores are RuntimeErrors
            raise StoreUnavailable from error

    def _work(self) -> None:
        while (request := self._requests.get()) is not None:
            operation, future = request
            try:
                future.set_result(operation(self._store))
            except Exception as error:
                self._is_broken = True
                future.set_exception(error)
