"""The body of one task: who am I, where are the others, train, and leave in good order.

An error on any rank is written to the run directory with rank, host and traceback, printed, and ends this process
without a collective: its peers notice, and the launcher ends the job.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import time
import traceback

import cv2
import msgspec
import torch

from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.distributed import World, choose_device, connected, make_deterministic
from hpc_yolo.engine.build import build
from hpc_yolo.engine.pictures import cpus_per_rank
from hpc_yolo.engine.trainer import Trainer
from hpc_yolo.errors import ClusterError, HpcYoloError
from hpc_yolo.preemption import StopRequest, describe, end_at_once_until_training
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, AttemptEnded, AttemptStarted
from hpc_yolo.runs.failures import Failure, write_failure
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.runs.lines import event_line
from hpc_yolo.spec.schema import Spec

LOST_PEER = re.compile(r"connection (closed|reset|refused)|socket (timeout|closed)", re.IGNORECASE)


def run_task(run: RunDirectory, spec: Spec) -> None:
    """Run this process's rank of the next attempt of `run`, to its end.

    Raises:
        SystemExit: a signal stopped the attempt (128 + its number), or, with several ranks, an error ended it.
        HpcYoloError: with a single rank, what went wrong.
    """
    end_at_once_until_training()
    process = ProcessInfo.from_env(current_environment())
    try:
        stopped_by = train_attempt(run, spec, process)
    except Exception as error:
        report_failure(run, process, error)
        if process.world_size == 1:
            raise
        # Peers may be stuck in a collective; an ordinary exit would wait for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code(error))
    if stopped_by:
        sys.exit(128 + stopped_by)


def train_attempt(run: RunDirectory, spec: Spec, process: ProcessInfo) -> int:
    """One attempt on this rank; 0 when the run is finished, else the signal that stopped it."""
    device = choose_device(spec.train.device, process)
    journal = new_journal(run, spec.train.epochs) if process.rank == 0 else None
    with connected(process, run, device, spec.train.start_timeout_s) as world:
        set_threads(world)
        if spec.train.deterministic:
            make_deterministic()
        attempt = journal.attempt if journal is not None else 0
        parts = build(spec, world, run, journal.write if journal is not None else lambda _event: None, attempt)
        stop = StopRequest()
        stop.install()
        trainer = Trainer(parts, world, run, journal, stop)
        if journal is not None:
            journal.write(attempt_started(spec, world, trainer))
        stopped_by = trainer.run()
        if journal is not None:
            # The other ranks wait at the block's end: one that left first would end the job before it is queued again.
            leave(run, spec, process, journal, trainer, stopped_by)
    return stopped_by


def leave(
    run: RunDirectory, spec: Spec, process: ProcessInfo, journal: JournalWriter, trainer: Trainer, stopped_by: int
) -> None:
    """Rank 0's last words, after the last byte is durable; a job that Slurm took away is queued again."""
    ended = AttemptEnded(
        outcome=AttemptEnded.STOPPED if stopped_by else AttemptEnded.FINISHED,
        epoch=trainer.epoch,
        step=trainer.progress.step,
        detail=describe(stopped_by) if stopped_by else "",
        requeued=wants_requeue(run, spec, process, stopped_by),
    )
    journal.write(ended)
    if ended.requeued:
        assert process.job_id is not None
        try:
            scheduler.requeue(process.job_id)
        except ClusterError as error:
            detail = f"{ended.detail}; not queued again: {error.message}"
            journal.write(msgspec.structs.replace(ended, requeued=False, detail=detail))


def wants_requeue(run: RunDirectory, spec: Spec, process: ProcessInfo, stopped_by: int) -> bool:
    """Whether Slurm interrupted a job that is still its own: a cancelled one must not rise again."""
    if process.launcher == "submitit-local" or process.job_id is None or spec.cluster.requeue != "requeue":
        return False
    if stopped_by not in (signal.SIGTERM, signal.SIGUSR2):
        return False
    if stopped_by == signal.SIGUSR2 and num_timeouts(run) >= spec.cluster.max_timeouts:
        return False
    try:
        state = scheduler.job_states([process.job_id]).get(process.job_id)
    except ClusterError:
        return False
    return state is not None and state.state == "RUNNING"


def num_timeouts(run: RunDirectory) -> int:
    """How many attempts were queued again at their time limit."""
    ends = [event for event in read_events(run.journal) if isinstance(event, AttemptEnded) and event.requeued]
    return sum(event.detail == describe(signal.SIGUSR2) for event in ends)


def new_journal(run: RunDirectory, epochs: int) -> JournalWriter:
    """The journal of the next attempt, counted by starts over all jobs of the run; rank 0's log has its main lines."""

    def print_line(event: AnyEvent) -> None:
        if (line := event_line(event, epochs)) is not None:
            print(line, flush=True)

    attempts = [event for event in read_events(run.journal) if isinstance(event, AttemptStarted)]
    return JournalWriter(run.journal, attempt=len(attempts) + 1, on_event=print_line)


def attempt_started(spec: Spec, world: World, trainer: Trainer) -> AttemptStarted:
    """The event that opens an attempt."""
    dtype = trainer.parts.autocast_dtype
    return AttemptStarted(
        job_id=world.process.job_id,
        launcher=world.process.launcher,
        device=torch.cuda.get_device_name() if world.device.type == "cuda" else "cpu",
        precision=str(dtype or trainer.parts.dtype).removeprefix("torch."),
        world_size=world.size,
        num_nodes=world.process.num_nodes,
        batch=trainer.parts.schedule.batch,
        epochs=spec.train.epochs,
        steps_per_epoch=trainer.steps_per_epoch,
        num_images=trainer.parts.training.num_images,
        epoch=trainer.epoch,
        step=trainer.progress.step,
        ranks=list(world.places),
    )


def set_threads(world: World) -> None:
    """Share this node's cores among its ranks."""
    torch.set_num_threads(cpus_per_rank(world))
    cv2.setNumThreads(0)  # pictures are decoded in many processes already


def report_failure(run: RunDirectory, process: ProcessInfo, error: Exception) -> None:
    """Leave this rank's last words in the run directory and on its output."""
    failure = Failure(
        time=time.time(),
        rank=process.rank,
        host=socket.gethostname() if process.host is None else process.host,
        job_id=process.job_id,
        kind=type(error).__name__,
        message=str(error),
        traceback="" if isinstance(error, HpcYoloError) else "".join(traceback.format_exception(error)),
        exit_code=exit_code(error),
        is_echo=is_echo(error),
    )
    print(failure.text, file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):  # the folder may be what failed; the words are on our output by now
        write_failure(run, failure)
        if process.rank == 0:
            detail = f"{failure.kind}: {failure.message}"
            ended = AttemptEnded(outcome=AttemptEnded.FAILED, epoch=0, step=0, detail=detail)
            attempts = [event for event in read_events(run.journal) if isinstance(event, AttemptStarted)]
            JournalWriter(run.journal, attempt=max(len(attempts), 1)).write(ended)


def exit_code(error: Exception) -> int:
    """What this process tells its launcher of `error`."""
    return error.exit_code if isinstance(error, HpcYoloError) else 1


def is_echo(error: Exception) -> bool:
    """Whether this rank only noticed that another one had gone."""
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and LOST_PEER.search(str(error)) is not None
    )
