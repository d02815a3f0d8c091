"""A rank that hangs or dies ends the attempt, instead of letting the others wait for it until the job's time is over.

The training loop says where it is (`Watchdog.beat`); a thread of every rank looks at it about once a second, and shows
it to the other ranks. Once nobody has moved for the limit, all ranks write what their threads are doing into the run
directory, the first one to judge says which rank is to blame, and all leave without a collective.
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
from hpc_yolo.runs.failures import Failure, write_failure
from hpc_yolo.training.watchdog.peers import (
    STACKS_SIGNAL,
    Beat,
    BoundedStore,
    StoreSilent,
    Suspects,
    Verdict,
    all_have_written,
    describe_suspects,
    find_peers,
    find_suspects,
    pronounce,
    publish,
    read_beats,
    say_written,
)
from hpc_yolo.training.watchdog.stall import Progress, Silence

TICK_S = 0.7
MAX_TICK_S = 5.0  # a longer one means that this process was stopped itself: that time is not the main thread's
LOOK_S = 3.0  # between two looks at the others: long enough for a rank that runs to show it
STORE_S = 2.0
WRITTEN_S = 4.0  # how long to wait for the others' stacks; the launcher kills them once one has left
DUMP_S = 0.5
STORE_OUTLIVES_S = 0.5  # rank 0 serves the store: the others, if they lost it, would print torch's own stacks
LEAVE_S = 12.0  # whatever hangs meanwhile, the process is gone after this
# Where Python itself is held up in a single rank, nobody else is there to see it. Long, because the time in which Slurm
# has suspended a job counts here.
LAST_RESORT_S = 600.0
ERROR_OUTPUT = 2


class Watchdog:
    """Ends this process, with exit code 10, when the attempt stands still; runs while its block does.

    Ranks must call `beat` at the same places of the loop: how far each has come is compared.
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
        """Every rank makes one at the same place: they tell each other who they are.

        Args:
            attempt: the number of this start of the run; rank 0's counts.
            timeout_s: how long the main thread may not move; "auto" is 45 s, or five times the longest so far.
            start_timeout_s: as long as that at least until the first step is done.
        """
        self._world = world
        self._run = run
        self._attempt = int(world.gather_figures([attempt])[0][0])
        self._peers = find_peers(world)
        self._progress = Progress(0, -1, 0, "the start", 0.0)
        self._silence = Silence(None if timeout_s == "auto" else timeout_s, start_timeout_s)
        self._store: BoundedStore | None = None
        self._ticks = 0
        self._missed_answers = 0
        self._gone_before: set[int] = set()
        self._first_look: tuple[float, dict[int, Beat]] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self, phase: str, step: int, allowed_s: float = 0.0) -> None:
        """The main thread has come to `phase` of `step`; it may stay there for `allowed_s`, or the limit if longer."""
        beats, last_step, place, *_ = self._progress
        self._progress = Progress(beats + 1, step, place + 1 if step == last_step else 0, phase, allowed_s)

    def __enter__(self) -> Watchdog:
        store = self._world.second_store(f"watchdog/{self._attempt}")
        self._store = None if store is None else BoundedStore(store)
        faulthandler.register(STACKS_SIGNAL, file=ERROR_OUTPUT, all_threads=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        faulthandler.unregister(STACKS_SIGNAL)
        if self._store is not None:
            with contextlib.suppress(StoreSilent):
                verdict = self._store.do(publish(self._world.rank, self._beat(has_left=True)), STORE_S)
                if verdict is not None:
                    self._leave(verdict)  # the others have gone, or are about to
            self._store.close()

    def _watch(self) -> None:
        """The thread: a look at the main thread, the store and the other processes here, again and again."""
        looked_s = time.monotonic()
        while not self._ended.wait(TICK_S):
            now_s = time.monotonic()
            self._silence.note(self._progress, min(now_s - looked_s, MAX_TICK_S))
            looked_s = now_s
            faulthandler.dump_traceback_later(self._silence.limit_s + LAST_RESORT_S, exit=True, file=ERROR_OUTPUT)
            if (verdict := self._exchange() or self._find_gone() or self._judge()) is not None:
                self._leave(verdict)

    def _exchange(self) -> Verdict | None:
        """Tell the others where this rank stands; what they have found meanwhile."""
        self._ticks += 1
        if self._store is None:
            return None
        try:
            verdict = self._store.do(publish(self._world.rank, self._beat()), STORE_S)
        except StoreSilent:
            self._missed_answers += 1
            return None
        self._missed_answers = 0
        return verdict

    def _find_gone(self) -> Verdict | None:
        """Ranks of this machine that have died. The main thread has had a tick to notice by itself."""
        gone = {rank for rank, peer in self._peers.items() if peer.is_gone}
        confirmed = sorted(gone & self._gone_before)
        self._gone_before = gone
        if not confirmed:
            return None
        place = self._world.places[confirmed[0]]
        words = f"rank {place.rank} on {place.host} (process {place.pid}) is gone"
        return Verdict(judge=self._world.rank, rank=place.rank, words=words, gone=confirmed)

    def _judge(self) -> Verdict | None:
        """Who is to blame, once this rank's main thread has used up its time and nobody else's has any left."""
        if self._silence.left_s > 0:
            self._first_look = None
            return None
        if self._store is None:
            return self._verdict(Suspects([self._world.rank], are_silent=False), {self._world.rank: self._beat()})
        try:
            beats = self._store.do(read_beats(self._world.size), STORE_S)
        except StoreSilent:
            return self._blame_store() if self._missed_answers > 1 else None
        now_s = time.monotonic()
        if self._first_look is None:
            self._first_look = (now_s, beats)
        looked_s, earlier = self._first_look
        if now_s - looked_s < LOOK_S:
            return None
        self._first_look = None
        suspects = find_suspects(earlier, beats, self._world.size)
        return None if suspects is None else self._verdict(suspects, beats)

    def _verdict(self, suspects: Suspects, beats: dict[int, Beat]) -> Verdict:
        first = suspects.ranks[0]
        seen = {"condition": self._peers[first].condition} if first in self._peers else {}
        words = describe_suspects(suspects, beats, self._world.places, **seen)
        return Verdict(
            judge=self._world.rank,
            rank=first,
            words=f"no progress for {self._silence.silent_s:.0f} s: {words}",
            held_up=suspects.ranks if suspects.are_silent else [],
        )

    def _blame_store(self) -> Verdict:
        """Rank 0's process serves the store, or torchrun's agent beside it does."""
        place = self._world.places[0]
        words = (
            f"no progress for {self._silence.silent_s:.0f} s, and the store on rank 0's machine, {place.host} (process "
            f"{place.pid}), does not answer: it is stopped, gone, or cut off"
        )
        return Verdict(judge=self._world.rank, rank=0, words=words, held_up=[0])

    def _leave(self, verdict: Verdict) -> None:
        """Say why, write this rank's stacks, wait a moment for the others to do the same, and end this process."""
        end = threading.Timer(LEAVE_S, os._exit, [StallError.exit_code])
        end.daemon = True
        end.start()
        for peer in self._peers.values():
            peer.wake()  # so that it hears the verdict too; it may serve the store
        try:
            verdict = verdict if self._store is None else self._store.do(pronounce(verdict), STORE_S)
            speaks = verdict.judge == self._world.rank
        except StoreSilent:
            speaks = self._is_first_here(verdict)
        if speaks:
            self._write_failure(verdict)
        self._write_stacks()
        if not self._wait_for_stacks(verdict):
            self._end_held_up(verdict)
        os._exit(StallError.exit_code)

    def _write_stacks(self) -> None:
        """What every thread of this rank is doing; on the error output where the run directory cannot be written."""
        place = self._world.places[self._world.rank]
        title = (
            f"rank {place.rank} on {place.host} (process {place.pid}): in {self._progress.phase!r} at step "
            f"{self._progress.step}, silent for {self._silence.silent_s:.0f} s\n"
        )
        try:
            make_directory(self._run.stacks)
            with self._run.stacks_of(self._attempt, place.rank).open("w") as file:
                os.fchmod(file.fileno(), file_mode(self._run.stacks))
                file.write(title)
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError:
            print_error(title)
            faulthandler.dump_traceback(ERROR_OUTPUT, all_threads=True)

    def _write_failure(self, verdict: Verdict) -> None:
        place, process = self._world.places[verdict.rank], self._world.process
        hint = f"what all ranks were doing is in {self._run.stacks}; train.stall_timeout_s is the time without progress"
        error = StallError(verdict.words, hint=None if verdict.gone else hint)
        failure = Failure(
            time=time.time(),
            rank=place.rank,
            host=place.host,
            job_id=process.job_id,
            restart=process.attempt,
            kind=type(error).__name__,
            message=str(error),
            traceback="",
            exit_code=error.exit_code,
            is_echo=bool(verdict.gone),  # who died had its own reasons
        )
        print_error(f"{failure.text}\n")
        with contextlib.suppress(OSError):
            write_failure(self._run, failure)

    def _wait_for_stacks(self, verdict: Verdict) -> bool:
        """Wait a moment until all ranks that live have written theirs; False where some have not."""
        if self._store is None:
            return True
        ranks = [rank for rank in range(self._world.size) if rank not in verdict.gone]
        deadline_s = time.monotonic() + WRITTEN_S
        try:
            self._store.do(say_written(self._world.rank), STORE_S)
            while not (written := self._store.do(all_have_written(ranks), STORE_S)) and time.monotonic() < deadline_s:
                time.sleep(0.1)
        except StoreSilent:
            return False
        if self._world.is_main:
            time.sleep(STORE_OUTLIVES_S)
        return written

    def _is_first_here(self, verdict: Verdict) -> bool:
        """Whether this is the lowest rank on its machine that is not to blame."""
        to_blame = {rank for rank in self._peers if rank in verdict.held_up or rank in verdict.gone}
        return self._world.rank == min({self._world.rank, *self._peers} - to_blame)

    def _end_held_up(self, verdict: Verdict) -> None:
        """Have the stacks written of ranks here that cannot do it, and end them: not every launcher does."""
        if not self._is_first_here(verdict):
            return
        held_up = [peer for rank, peer in self._peers.items() if rank in verdict.held_up]
        for peer in held_up:
            peer.ask_for_stacks()
        time.sleep(DUMP_S)
        for peer in held_up:
            peer.kill()

    def _beat(self, *, has_left: bool = False) -> Beat:
        """What the others hear of this rank."""
        progress = self._progress
        return Beat(
            ticks=self._ticks,
            step=progress.step,
            place=progress.place,
            phase=progress.phase,
            left_s=self._silence.left_s,
            has_left=has_left,
        )


def print_error(text: str) -> None:
    """Write `text` on the error output past Python's buffers: whoever hangs may hold their locks."""
    with contextlib.suppress(OSError):
        os.write(ERROR_OUTPUT, text.encode())
