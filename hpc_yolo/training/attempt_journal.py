"""The journal of an attempt, opened by rank 0: it gets the missing end of an earlier attempt, and at last its own."""

from __future__ import annotations

import contextlib
import os
import signal

import torch

from hpc_yolo.cluster.local_process import process_start_time
from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import ClusterError
from hpc_yolo.distributed import World
from hpc_yolo.resilience.attempt_end import AttemptFacts, attempt_end
from hpc_yolo.resilience.chain import ensure_successor, require_predecessor_not_cancelled
from hpc_yolo.resilience.lease import Lease
from hpc_yolo.resilience.lost_attempt import record_lost_attempt
from hpc_yolo.resilience.requeue import carry_out, own_job_record, slurm_job_id
from hpc_yolo.resilience.stop_signal import describe
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.event_lines import EventLines
from hpc_yolo.runs.events import AnyEvent, AttemptEnded, AttemptStarted, WarningRaised
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.spec.schema import ClusterSpec
from hpc_yolo.training.tensorboard import EventFiles
from hpc_yolo.training.trainer import Trainer


def open_journal(
    run: RunDirectory, limits: ClusterSpec, process: ProcessInfo, lease: Lease, files: EventFiles | None
) -> JournalWriter:
    """Return the journal of this attempt, after recording the end of an earlier attempt if that is missing.

    Args:
        run: the run of this attempt.
        limits: how often attempts may end by which cause.
        process: this task, rank 0.
        lease: on the run.
        files: receives every event of this attempt.

    Raises:
        TrainingError: the earlier attempts have used up the limits.
    """
    lines = EventLines()

    def print_line(event: AnyEvent) -> None:
        line = lines.line(event)
        with contextlib.suppress(OSError):  # the output may be closed
            if line is not None:
                print(line, flush=True)

    def write_lost(attempt: int, ended: AttemptEnded) -> None:
        JournalWriter(run.journal, attempt, on_event=print_line, before_write=lease.require).write(ended)

    record_lost_attempt(run, limits, process, Attempts(read_events(run.journal)), write_lost)

    def on_event(event: AnyEvent) -> None:
        print_line(event)
        if files is not None:
            files.add(event)

    return JournalWriter(run.journal, lease.attempt, on_event=on_event, before_write=lease.require)


def queue_successor(run: RunDirectory, process: ProcessInfo, job_id: str, journal: JournalWriter) -> None:
    """Submit the job that follows this one in chain mode, at once: a job that is killed cannot submit it.

    Raises:
        CancelledError: this job follows one that was cancelled.
    """
    require_predecessor_not_cancelled(run, job_id)
    try:
        ensure_successor(run, process)
    except ClusterError as refusal:
        message = f"the next job cannot be queued: {refusal.message}; this is retried at the end of this job"
        journal.write(WarningRaised(message=message))


def record_end(
    run: RunDirectory,
    cluster: ClusterSpec,
    process: ProcessInfo,
    journal: JournalWriter,
    trainer: Trainer,
    stopped_by: signal.Signals | None,
) -> None:
    """Record the end of this attempt, after all its files are durable, and queue the run again if it continues."""
    attempts = Attempts(read_events(run.journal))
    end = attempt_end(
        AttemptFacts(
            limits=cluster,
            attempts=attempts,
            number=journal.attempt,
            is_in_slurm=slurm_job_id(process) is not None,
            restart=process.attempt,
            job=None if stopped_by is None else own_job_record(process),
            is_finished=stopped_by is None,
            stop_signal=stopped_by,
        )
    )
    detail = "" if stopped_by is None else "; ".join(filter(None, (describe(stopped_by), end.reason)))
    ended = end.event(trainer.position.step, detail, epoch=trainer.epoch)
    journal.write(ended)
    if stopped_by is not None and process.job_id is not None:
        # If Slurm refuses, the last line of the batch script retries: it may have commands that a container lacks.
        carry_out(end, ended, run, process, cluster, attempts=attempts, write=journal.write)


def attempt_started(world: World, trainer: Trainer) -> AttemptStarted:
    """Return the event that opens an attempt."""
    dtype = trainer.context.autocast_dtype
    device = world.device
    return AttemptStarted(
        job_id=world.process.job_id,
        launcher=world.process.launcher,
        device=torch.cuda.get_device_name() if world.device.type == "cuda" else "cpu",
        precision=str(dtype or trainer.context.dtype).removeprefix("torch."),
        world_size=world.size,
        num_nodes=world.process.num_nodes,
        batch=trainer.context.schedule.batch,
        epochs=trainer.context.train.epochs,
        steps_per_epoch=trainer.cadence.steps_per_epoch,
        num_images=trainer.context.training.num_images,
        epoch=trainer.epoch,
        step=trainer.position.step,
        device_mem_bytes=torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None,
        process_started=process_start_time(os.getpid()),
        augment_device="cpu" if trainer.context.training.draws else "gpu",
        ranks=list(world.ranks),
    )
