"""The watchdog: ends the attempt if a rank hangs or dies; else the others would wait until the job's time limit.

The training loop sends heartbeats (`Watchdog.heartbeat`); a thread of every rank checks for them about once a second
and publishes them to the other ranks. If no rank makes progress within the limit, all ranks write the stacks of their
threads into the run directory, the first diagnosis names the rank at fault, and all exit without a collective.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
import time
from typing import Literal

from hpc_yolo.core.errors import StallError
from hpc_yolo.core.files import file_mode, make_directory
from hpc_yolo.distributed import World
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.failures import failure_without_traceback, write_failure
from hpc_yolo.training.watchdog.diagnosis import Diagnosis, Heartbeat, StalledRanks, describe_stalled, find_stalled
from hpc_yolo.training.watchdog.heartbeats import HeartbeatStore, StoreUnavailable
from hpc_yolo.training.watchdog.peers import STACKS_SIGNAL, find_peers
from hpc_yolo.training.watchdog.stall import BEFORE_TRAINING, StallTimer

TICK_S = 0.7
MAX_TICK_S = 5.0  # after a longer one this process itself was stopped: that time does not count
COMPARE_S = 3.0  # between two readings of all heartbeats: long enough to recognise a rank that runs
STACKS_S = 4.0  # how long to wait for the others' stacks; the launcher kills them once one has left
DUMP_S = 0.5
STORE_OUTLIVES_S = 0.5  # rank 0 serves the store: without it the others would print torch's own stacks
LEAVE_S = 12.0  # the process exits after this, even if something hangs
# For a single rank in which Python itself is blocked: no other process can detect it. Long, because the time for which
# Slurm has suspended a job counts here.
LAST_RESORT_S = 600.0
ERROR_OUTPUT = 2


class Watchdog:
    """Ends this process, with exit code 10, when the attempt makes no progress; active inside its block.

    Ranks must call `heartbeat` at the same points of the loop: their positions are compared.
    """

    def __init__(
        self,
        world: World,
        run: RunDirectory,
        attempt: int,
        *,
        timeout_s: float | Literal["auto"] = "auto",
        start_timeout_s: float = 600.0,
    ) -> None:
        """Initialize the watchdog; all ranks at the same point, since they exchange the number of the attempt.

        Args:
            attempt: the number of this attempt of the run; rank 0's counts.
            timeout_s: limit without progress; "auto" is 45 s, or five times the longest so far.
            start_timeout_s: the limit is not below this until the first step is done.
        """
        self._world = world
        self._run = run
        self._attempt = int(world.gather_numbers([attempt])[0][0])
        self._peers = find_peers(world)
        self._main_thread = BEFORE_TRAINING
        self._stall = StallTimer(None if timeout_s == "auto" else timeout_s, start_timeout_s)
        self._store: HeartbeatStore | None = None
        self._ticks = 0
        self._num_missed = 0
        self._gone_before: set[int] = set()
        self._first_reading: tuple[float, dict[int, Heartbeat]] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def heartbeat(self, phase: str, step: int, allowed_s: float = 0.0) -> None:
        """Record the start of `phase` of `step`, which may take `allowed_s`, or the limit if longer."""
        self._main_thread = self._main_thread.next(phase, step, allowed_s)

    def __enter__(self) -> Watchdog:
        store = self._world.second_store(f"watchdog/{self._attempt}")
        if store is not None:
            self._store = HeartbeatStore(store, self._world.rank, self._world.size)
        faulthandler.register(STACKS_SIGNAL, file=ERROR_OUTPUT, all_threads=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        faulthandler.unregister(STACKS_SIGNAL)
        if self._store is not None:
            with contextlib.suppress(StoreUnavailable):
                diagnosis = self._store.publish(self._own_heartbeat(has_left=True))
                if diagnosis is not None:
                    self._leave(diagnosis)  # the others have exited, or are about to
            self._store.close()

    def _watch(self) -> None:
        """Check the main thread, the store and the other processes here periodically; runs in the thread."""
        checked_s = time.monotonic()
        while not self._ended.wait(TICK_S):
            now_s = time.monotonic()
            self._stall.observe(self._main_thread, min(now_s - checked_s, MAX_TICK_S))
            checked_s = now_s
            faulthandler.dump_traceback_later(self._stall.limit_s + LAST_RESORT_S, exit=True, file=ERROR_OUTPUT)
            if (diagnosis := self._exchange() or self._find_gone() or self._diagnose()) is not None:
                self._leave(diagnosis)

    def _exchange(self) -> Diagnosis | None:
        """Publish this rank's heartbeat; return the diagnosis of another rank, if there is one."""
        self._ticks += 1
        if self._store is None:
            return None
        try:
            diagnosis = self._store.publish(self._own_heartbeat())
        except StoreUnavailable:
            self._num_missed += 1
            return None
        self._num_missed = 0
        return diagnosis

    def _find_gone(self) -> Diagnosis | None:
        """Find ranks of this machine that have died. The main thread has had a tick to detect it first."""
        gone = {rank for rank, peer in self._peers.items() if peer.is_gone}
        confirmed = sorted(gone & self._gone_before)
        self._gone_before = gone
        if not confirmed:
            return None
        location = self._world.ranks[confirmed[0]]
        message = f"rank {location.rank} on {location.host} (process {location.pid}) is gone"
        return Diagnosis(author=self._world.rank, rank=location.rank, message=message, gone=confirmed)

    def _diagnose(self) -> Diagnosis | None:
        """Find the rank at fault, once no main thread of any rank has time remaining."""
        if self._stall.remaining_s > 0:
            self._first_reading = None
            return None
        if self._store is None:
            own = {self._world.rank: self._own_heartbeat()}
            return self._blame(StalledRanks([self._world.rank], are_unresponsive=False), own)
        try:
            heartbeats = self._store.read_all()
        except StoreUnavailable:
            return self._blame_store() if self._num_missed > 1 else None
        now_s = time.monotonic()
        if self._first_reading is None:
            self._first_reading = (now_s, heartbeats)
        read_s, earlier = self._first_reading
        if now_s - read_s < COMPARE_S:
            return None
        self._first_reading = None
        stalled = find_stalled(earlier, heartbeats, self._world.size)
        return None if stalled is None else self._blame(stalled, heartbeats)

    def _blame(self, stalled: StalledRanks, heartbeats: dict[int, Heartbeat]) -> Diagnosis:
        first = stalled.ranks[0]
        seen = {"condition": self._peers[first].condition} if first in self._peers else {}
        message = describe_stalled(stalled, heartbeats, self._world.ranks, **seen)
        return Diagnosis(
            author=self._world.rank,
            rank=first,
            message=f"no progress for {self._stall.stalled_s:.0f} s: {message}",
            unresponsive=stalled.ranks if stalled.are_unresponsive else [],
        )

    def _blame_store(self) -> Diagnosis:
        """Return rank 0 as the rank at fault: its process, or torchrun's agent beside it, serves the store."""
        server = self._world.ranks[0]
        message = (
            f"no progress for {self._stall.stalled_s:.0f} s, and the store on rank 0's machine, {server.host} (process "
            f"{server.pid}), does not respond: it is stopped, gone, or cut off"
        )
        return Diagnosis(author=self._world.rank, rank=0, message=message, unresponsive=[0])

    def _leave(self, diagnosis: Diagnosis) -> None:
        """Record the diagnosis, write this rank's stacks, wait briefly for those of the others, and exit."""
        end = threading.Timer(LEAVE_S, os._exit, [StallError.exit_code])
        end.daemon = True
        end.start()
        for peer in self._peers.values():
            peer.resume()  # so that it gets the diagnosis too; it may serve the store
        try:
            diagnosis = diagnosis if self._store is None else self._store.give_up(diagnosis)
            records = diagnosis.author == self._world.rank
        except StoreUnavailable:
            records = self._is_first_here(diagnosis)
        if records:
            self._write_failure(diagnosis)
        self._write_stacks()
        if not self._wait_for_stacks(diagnosis):
            self._end_unresponsive(diagnosis)
        os._exit(StallError.exit_code)

    def _write_stacks(self) -> None:
        """Write the stacks of all threads; to stderr if the run directory cannot be written."""
        own, thread = self._world.ranks[self._world.rank], self._main_thread
        title = (
            f"rank {own.rank} on {own.host} (process {own.pid}): in {thread.phase!r} at step {thread.step}, "
            f"no progress for {self._stall.stalled_s:.0f} s\n"
        )
        try:
            make_directory(self._run.stacks)
            with self._run.stacks_of(self._attempt, own.rank).open("w") as file:
                os.fchmod(file.fileno(), file_mode(self._run.stacks))
                file.write(title)
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError:
            print_error(title)
            faulthandler.dump_traceback(ERROR_OUTPUT, all_threads=True)

    def _write_failure(self, diagnosis: Diagnosis) -> None:
        location, process = self._world.ranks[diagnosis.rank], self._world.process
        hint = f"the stacks of all ranks are in {self._run.stacks}; train.stall_timeout_s is the time without progress"
        error = StallError(diagnosis.message, hint=None if diagnosis.gone else hint)
        failure = failure_without_traceback(
            error,
            rank=location.rank,
            host=location.host,
            job_id=process.job_id,
            restart=process.attempt,
            is_echo=bool(diagnosis.gone),  # the cause is in the process that died
        )
        print_error(f"{failure.text}\n")
        with contextlib.suppress(OSError):
            write_failure(self._run, failure)

    def _wait_for_stacks(self, diagnosis: Diagnosis) -> bool:
        """Wait briefly for the stacks of all living ranks; return False if some are missing."""
        if self._store is None:
            return True
        ranks = [rank for rank in range(self._world.size) if rank not in diagnosis.gone]
        deadline_s = time.monotonic() + STACKS_S
        try:
            self._store.confirm_stacks()
            while not (are_written := self._store.have_stacks(ranks)) and time.monotonic() < deadline_s:
                time.sleep(0.1)
        except StoreUnavailable:
            return False
        if self._world.is_main:
            time.sleep(STORE_OUTLIVES_S)
        return are_written

    def _is_first_here(self, diagnosis: Diagnosis) -> bool:
        """Return whether this is the lowest rank on its machine that is not at fault."""
        to_blame = {rank for rank in self._peers if rank in diagnosis.unresponsive or rank in diagnosis.gone}
        return self._world.rank == min({self._world.rank, *self._peers} - to_blame)

    def _end_unresponsive(self, diagnosis: Diagnosis) -> None:
        """Request the stacks of unresponsive ranks on this machine, and kill them: not every launcher does."""
        if not self._is_first_here(diagnosis):
            return
        unresponsive = [peer for rank, peer in self._peers.items() if rank in diagnosis.unresponsive]
        for peer in unresponsive:
            peer.request_stacks()
        time.sleep(DUMP_S)
        for peer in unresponsive:
            peer.kill()

    def _own_heartbeat(self, *, has_left: bool = False) -> Heartbeat:
        thread = self._main_thread
        return Heartbeat(
            ticks=self._ticks,
            step=thread.step,
            num_phases=thread.num_phases,
            phase=thread.phase,
            remaining_s=self._stall.remaining_s,
            has_left=has_left,
        )


def print_error(text: str) -> None:
    """Write `text` to stderr, bypassing Python's buffers: a thread that hangs may hold their locks."""
    with contextlib.suppress(OSError):
        os.write(ERROR_OUTPUT, text.encode())
