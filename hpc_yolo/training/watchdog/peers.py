"""What the ranks' watchdogs know of each other, and who holds up the others when nothing moves.

Every watchdog says once a second where its rank stands, in the attempt's store. An operation on a store may take for
ever (its server, rank 0 or torchrun's agent, may be stopped), so each has a limit here.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec
from torch._C._distributed_c10d import Store

from hpc_yolo.cluster.local_process import is_stopped, process_start
from hpc_yolo.distributed import World
from hpc_yolo.runs.events import RankPlace

T = TypeVar("T")
CLOSE_S = 1.0
STACKS_SIGNAL = signal.SIGUSR1  # a rank that gets it writes its stacks on its error output, whatever Python does


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """Where a rank stands.

    Attributes:
        ticks: moves while the rank's watchdog itself runs.
        step, place: how far its main thread has come; `place` counts from 0 within the step.
        left_s: how long the main thread may go on like this; none left when 0 or less.
        has_left: it has come to the end of its training loop.
    """

    ticks: int
    step: int
    place: int
    phase: str
    left_s: float
    has_left: bool = False


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Which rank is to blame, in words; `held_up` are ranks whose own watchdogs do not run, `gone` dead ones."""

    judge: int
    rank: int
    words: str
    held_up: list[int] = []
    gone: list[int] = []


@dataclass(frozen=True)
class Suspects:
    """Ranks that hold up the others, in ascending order; all of them where none is behind."""

    ranks: list[int]
    are_silent: bool


def find_suspects(earlier: Mapping[int, Beat], later: Mapping[int, Beat], world_size: int) -> Suspects | None:
    """Who holds up the others, from two looks at all beats some seconds apart; None while somebody has time left."""
    away = {rank for rank, beat in later.items() if beat.has_left}
    living = {
        rank: beat
        for rank, beat in later.items()
        if rank not in away and rank in earlier and earlier[rank].ticks != beat.ticks
    }
    if any(beat.left_s > 0 for beat in living.values()):
        return None  # whoever waits for that rank may wait as long
    if silent := sorted(set(range(world_size)) - living.keys() - away):
        return Suspects(silent, are_silent=True)
    least = min(((beat.step, beat.place) for beat in living.values()), default=(0, 0))
    return Suspects([rank for rank, beat in sorted(living.items()) if (beat.step, beat.place) == least], False)


def describe_suspects(
    suspects: Suspects,
    beats: Mapping[int, Beat],
    places: Sequence[RankPlace],
    condition: str = "it is stopped, gone, or held up outside of Python",
) -> str:
    """A sentence for people: the first of `suspects` with host, process and where it stands, and who else.

    Args:
        condition: what is known of the first one's process, where it does not answer.
    """
    first, *others = suspects.ranks
    place, beat = places[first], beats.get(first)
    name = f"rank {first} on {place.host} (process {place.pid})"
    seen = "it has not begun to train" if beat is None else f"seen last in {beat.phase!r} at step {beat.step}"
    if suspects.are_silent:
        also = f"; nor {_ranks(others)}" if others else ""
        return f"{name} does not answer: {condition}; {seen}{also}"
    where = "" if beat is None else f" in {beat.phase!r} at step {beat.step}"
    num_here = sum(1 for beat in beats.values() if not beat.has_left)
    if num_here == 1:
        return f"{name} makes no progress{where}"
    if len(suspects.ranks) == num_here:
        return f"all {num_here} ranks stand at the same place{where}; {name} is the first of them"
    also = f"; so {'does' if len(others) == 1 else 'do'} {_ranks(others)}" if others else ""
    return f"{name} holds up the others{where}{also}"


class StoreSilent(Exception):
    """The store does not answer in time, or its server is gone."""


class BoundedStore:
    """A store whose every operation ends in time: they run in a thread of their own, one after the other."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asked: queue.SimpleQueue[tuple[Callable[[Store], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._latest: Future[Any] = Future()
        self._latest.set_result(None)
        self._is_broken = False
        self._thread = threading.Thread(target=self._work, name="watchdog store", daemon=True)
        self._thread.start()

    def do(self, operation: Callable[[Store], T], timeout_s: float) -> T:
        """What `operation` gives for the store.

        Raises:
            StoreSilent: it took longer, or failed. While one hangs the next ones are not even tried, nor after one
                failed: the connection is gone.
        """
        done, _ = concurrent.futures.wait([self._latest], timeout_s)
        if not done or self._is_broken:
            raise StoreSilent
        future: Future[T] = Future()
        self._latest = future
        self._asked.put((operation, future))
        try:
            return future.result(timeout_s)
        except (concurrent.futures.TimeoutError, RuntimeError) as error:  # torch's errors of stores are RuntimeErrors
            raise StoreSilent from error

    def close(self) -> None:
        """End the thread, unless an operation hangs in it."""
        self._asked.put(None)
        self._thread.join(CLOSE_S)

    def _work(self) -> None:
        while (asked := self._asked.get()) is not None:
            operation, future = asked
            try:
                future.set_result(operation(self._store))
            except Exception as error:
                self._is_broken = True
                future.set_exception(error)


def publish(rank: int, beat: Beat) -> Callable[[Store], Verdict | None]:
    """An operation: say where this rank stands, and hear whether the attempt has been given up."""

    def operation(store: Store) -> Verdict | None:
        store.set(f"beat/{rank}", msgspec.json.encode(beat).decode())
        return msgspec.json.decode(store.get("verdict"), type=Verdict) if store.check(["verdict"]) else None

    return operation


def read_beats(world_size: int) -> Callable[[Store], dict[int, Beat]]:
    """An operation: the beats of all ranks that have said anything yet."""

    def operation(store: Store) -> dict[int, Beat]:
        keys = {rank: f"beat/{rank}" for rank in range(world_size)}
        if not store.check(list(keys.values())):
            keys = {rank: key for rank, key in keys.items() if store.check([key])}
        beats = store.multi_get(list(keys.values()))
        return {rank: msgspec.json.decode(beat, type=Beat) for rank, beat in zip(keys, beats, strict=True)}

    return operation


def pronounce(verdict: Verdict) -> Callable[[Store], Verdict]:
    """An operation: give up the attempt for the reason in `verdict`; the verdict that was first."""

    def operation(store: Store) -> Verdict:
        first = store.compare_set("verdict", "", msgspec.json.encode(verdict).decode())
        return msgspec.json.decode(first, type=Verdict)

    return operation


def say_written(rank: int) -> Callable[[Store], None]:
    """An operation: tell the others that this rank's stacks are written."""
    return lambda store: store.set(f"written/{rank}", "1")


def all_have_written(ranks: Sequence[int]) -> Callable[[Store], bool]:
    """An operation: whether the stacks of all `ranks` are written."""
    return lambda store: store.check([f"written/{rank}" for rank in ranks])


class Peer(NamedTuple):
    """Another rank's process on this machine; `start` tells it from a later one with its number."""

    pid: int
    start: int

    @property
    def is_gone(self) -> bool:
        """Whether it has ended."""
        return process_start(self.pid) != self.start

    @property
    def condition(self) -> str:
        """What can be seen of it from outside, while its watchdog does not answer."""
        if self.is_gone:
            return "it is gone"
        return "a signal has stopped it" if is_stopped(self.pid) else "it is held up outside of Python"

    def wake(self) -> None:
        """Let it go on if a signal has stopped it."""
        if is_stopped(self.pid):
            self._signal(signal.SIGCONT)

    def ask_for_stacks(self) -> None:
        """Have it write its stacks on its error output, even where it is held up outside of Python."""
        self._signal(STACKS_SIGNAL)

    def kill(self) -> None:
        """End it, whatever it does."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if not self.is_gone:
                os.kill(self.pid, number)


def find_peers(world: World) -> dict[int, Peer]:
    """The other ranks on this machine, by rank."""
    return {rank: Peer(world.places[rank].pid, start) for rank, start in world.neighbours.items()}


def _ranks(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:16]))
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {shown}{' …' if len(ranks) > 16 else ''}"
