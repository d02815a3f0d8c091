"""The body of one task: who am I, where are the others, train, and leave in good order.

An error on any rank is written to the run directory with rank, host and traceback, printed, and ends this process
without a collective: its peers notice, and the launcher ends the job.
"""

from __future__ import annotations

import contextlib
import multiprocessing.resource_sharer
import os
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator

import cv2
import torch

from hpc_yolo.cluster.local_process import process_start_time
from hpc_yolo.cluster.process import ProcessInfo, chosen_threads, current_environment
from hpc_yolo.core.errors import CancelledError, ClusterError, HpcYoloError, LeaseError, LostProcessError, TrainingError
from hpc_yolo.core.exit_status import ExitStatus
from hpc_yolo.data.shared_memory import HINT, explain_lost_worker
from hpc_yolo.distributed import World, choose_device, connected, make_deterministic
from hpc_yolo.resilience.attempt_end import AttemptFacts, attempt_end
from hpc_yolo.resilience.chain import cancelled_predecessor, ensure_successor, predecessor
from hpc_yolo.resilience.lease import HeartBeat, Lease, take_lease
from hpc_yolo.resilience.lost_attempt import end_of_lost_attempt
from hpc_yolo.resilience.requeue import carry_out, job_of, requeue_mode, slurm_job_id
from hpc_yolo.resilience.stop_signal import StopRequest, describe, end_at_once_until_training
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.event_lines import event_line
from hpc_yolo.runs.events import AnyEvent, AttemptStarted, WarningRaised
from hpc_yolo.runs.failures import Failure, write_failure
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.spec.schema import Spec
from hpc_yolo.training.autobatch import out_of_memory
from hpc_yolo.training.build import build
from hpc_yolo.training.images import cpus_per_rank
from hpc_yolo.training.tensorboard import EventFiles
from hpc_yolo.training.trainer import Trainer
from hpc_yolo.training.watchdog.watchdog import Watchdog

LOST_PEER = re.compile(r"connection (closed|reset|refused)|socket (timeout|closed)", re.IGNORECASE)
LOST_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\)")


def run_task(run: RunDirectory, spec: Spec) -> None:
    """Run this process's rank of the next attempt of `run`, to its end.

    Raises:
        SystemExit: a signal stopped the attempt (128 + its number), or, with several ranks, an error ended it.
        HpcYoloError: with a single rank, what went wrong.
    """
    end_at_once_until_training()
    process = ProcessInfo.from_env(current_environment())
    announce(process)
    try:
        stopped_by = train_attempt(run, spec, process)
    except Exception as raised:
        error = in_words(raised)
        report_failure(run, process, error)
        if process.world_size == 1:
            if error is raised:
                raise
            raise error from raised
        # Peers may be stuck in a collective; an ordinary exit would wait for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code(error))
    if stopped_by is not None:
        sys.exit(ExitStatus.of_signal(stopped_by).code)


def announce(process: ProcessInfo) -> None:
    """Print the line by which readers of a log tell the starts of a task apart (`runs.output`)."""
    if process.launcher != "submitit-local":  # which prints one of its own
        host = process.host or socket.gethostname()
        print(f"hpc-yolo: task {process.rank} on {host}, start {process.attempt} of its job", flush=True)


def train_attempt(run: RunDirectory, spec: Spec, process: ProcessInfo) -> signal.Signals | None:
    """Train one attempt on this rank; return None when the run is finished, else the signal that stopped it."""
    with contextlib.ExitStack() as held:
        lease = None
        if process.rank == 0:
            lease = take_lease(run, process)
            held.enter_context(HeartBeat(lease))
            held.enter_context(settled_modes(run))
        try:
            files = None
            if lease is not None and spec.train.tensorboard:
                files = held.enter_context(contextlib.closing(EventFiles(run)))
            return train_with_lease(run, spec, process, lease, files)
        except Exception as raised:
            error = in_words(raised)
            # Who lost the run has no say in it; who lost a peer cannot say why.
            if lease is not None and not isinstance(error, LeaseError) and not is_echo(error):
                end = attempt_end(AttemptFacts(spec.cluster, failures=[failure_of(process, error)]))
                detail = error.message if isinstance(error, CancelledError) else f"{type(error).__name__}: {error}"
                JournalWriter(run.journal, lease.attempt, before_write=lease.require).write(end.event(0, detail))
            raise


@contextlib.contextmanager
def settled_modes(run: RunDirectory) -> Iterator[None]:
    """Give the files of Slurm, submitit and TensorBoard the modes of the run directory, before and after the block."""
    with contextlib.suppress(OSError):
        run.settle_modes()
    yield
    with contextlib.suppress(OSError):
        run.settle_modes()


def train_with_lease(
    run: RunDirectory, spec: Spec, process: ProcessInfo, lease: Lease | None, files: EventFiles | None
) -> signal.Signals | None:
    """As `train_attempt`; `lease` and `files` are rank 0's."""
    device = choose_device(spec.train.device, process)
    journal = None if lease is None else open_journal(run, spec, process, lease, files)
    job_id = slurm_job_id(process)
    if journal is not None and job_id is not None and requeue_mode(run, process, spec.cluster) == "chain":
        queue_successor(run, process, job_id, journal)
    with connected(process, run, device, spec.train.start_timeout_s) as world:
        set_threads(world)
        if spec.train.deterministic:
            make_deterministic()
        emit = journal.write if journal is not None else lambda _event: None
        context = build(spec, world, run, emit, 0 if lease is None else lease.attempt)
        stop = StopRequest()
        stop.install()
        may_publish = lease.require if lease is not None else lambda: None
        watchdog = Watchdog(
            world,
            run,
            0 if lease is None else lease.attempt,
            timeout_s=spec.train.stall_timeout_s,
            start_timeout_s=spec.train.start_timeout_s,
        )
        trainer = Trainer(context, world, run, journal, stop, may_publish, watchdog)
        if journal is not None:
            journal.write(attempt_started(spec, world, trainer))
        try:
            stopped_by = trainer.run()
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, context, world) from None
        if journal is not None:
            # The other ranks wait at the block's end: one that left first would end the job before it is queued again.
            leave(run, spec, process, journal, trainer, stopped_by)
    return stopped_by


def open_journal(
    run: RunDirectory, spec: Spec, process: ProcessInfo, lease: Lease, files: EventFiles | None
) -> JournalWriter:
    """The journal of this attempt, after a word for one before that left none; rank 0's log has its main lines.

    Args:
        files: told of every event of this attempt.

    Raises:
        TrainingError: the attempts before have used up what the spec allows.
    """

    def print_line(event: AnyEvent) -> None:
        line = event_line(event, spec.train.epochs)
        with contextlib.suppress(OSError):  # whoever read our output may be gone
            if line is not None:
                print(line, flush=True)

    attempts = Attempts(read_events(run.journal))
    if (lost := attempts.lost) is not None:
        end, ended = end_of_lost_attempt(lost, attempts, spec.cluster)
        JournalWriter(run.journal, lost.attempt, on_event=print_line, before_write=lease.require).write(ended)
        if process.job_id is not None and not end.goes_on and lost.job_id in own_jobs(run, process.job_id):
            raise TrainingError(
                f"this run does not go on by itself: {end.reason}", hint="look at why, then submit the spec again"
            )

    def on_event(event: AnyEvent) -> None:
        print_line(event)
        if files is not None:
            files.tell(event)

    return JournalWriter(run.journal, lease.attempt, on_event=on_event, before_write=lease.require)


def own_jobs(run: RunDirectory, job_id: str) -> tuple[str | None, ...]:
    """Job `job_id` and the one it follows: what became of them a person has not answered by submitting again."""
    before = predecessor(run, job_id)
    return (job_id,) if before is None else (job_id, before)


def queue_successor(run: RunDirectory, process: ProcessInfo, job_id: str, journal: JournalWriter) -> None:
    """In chain mode, from the first minute on, somebody waits to take over: a job that dies can submit nothing.

    Raises:
        CancelledError: this job follows one that was cancelled.
    """
    if (cancelled := cancelled_predecessor(run, job_id)) is not None:
        raise CancelledError(
            f"job {cancelled}, which this one follows, was cancelled, so this one ends too",
            hint="submit the spec again to go on",
        )
    try:
        ensure_successor(run, process)
    except ClusterError as refusal:
        message = f"no job waits to follow this one: {refusal.message}; it is tried again at this one's end"
        journal.write(WarningRaised(message=message))


def leave(
    run: RunDirectory,
    spec: Spec,
    process: ProcessInfo,
    journal: JournalWriter,
    trainer: Trainer,
    stopped_by: signal.Signals | None,
) -> None:
    """Record the end of this attempt, after the last byte is durable, and queue the run again where it goes on."""
    attempts = Attempts(read_events(run.journal))
    end = attempt_end(
        AttemptFacts(
            limits=spec.cluster,
            attempts=attempts,
            number=journal.attempt,
            is_in_slurm=slurm_job_id(process) is not None,
            restart=process.attempt,
            job=None if stopped_by is None else job_of(process),
            is_finished=stopped_by is None,
            stop_signal=stopped_by,
        )
    )
    detail = "" if stopped_by is None else "; ".join(filter(None, (describe(stopped_by), end.reason)))
    ended = end.event(trainer.position.step, detail, epoch=trainer.epoch)
    journal.write(ended)
    if stopped_by is not None and process.job_id is not None:
        # Where Slurm refuses, the last line of the batch script tries it again: it may have what a container has not.
        carry_out(end, ended, run, process, spec.cluster, attempts=attempts, write=journal.write)


def attempt_started(spec: Spec, world: World, trainer: Trainer) -> AttemptStarted:
    """The event that opens an attempt."""
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
        epochs=spec.train.epochs,
        steps_per_epoch=trainer.cadence.steps_per_epoch,
        num_images=trainer.context.training.num_images,
        epoch=trainer.epoch,
        step=trainer.position.step,
        device_mem_bytes=torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None,
        process_started=process_start_time(os.getpid()),
        ranks=list(world.places),
    )


def set_threads(world: World) -> None:
    """Share this node's cores among its ranks, unless OMP_NUM_THREADS says how many threads each takes."""
    torch.set_num_threads(chosen_threads(current_environment(), world.process.launcher) or cpus_per_rank(world))
    cv2.setNumThreads(0)  # images are decoded in many processes already


def report_failure(run: RunDirectory, process: ProcessInfo, error: Exception) -> None:
    """Leave this rank's last words in the run directory and, of several ranks, on its output.

    A rank without the lease has no say in the run directory any more: somebody else's attempt is in it.
    """
    failure = failure_of(process, error)
    if process.world_size > 1:  # else the error is raised, and whoever catches it prints it
        with contextlib.suppress(OSError):
            print(failure.text, file=sys.stderr, flush=True)
    if isinstance(error, LeaseError):
        return
    with contextlib.suppress(OSError):  # the directory may be what failed; the words are on our output by now
        write_failure(run, failure)


def failure_of(process: ProcessInfo, error: Exception) -> Failure:
    """Return the record of `error` on this rank."""
    return Failure(
        time=time.time(),
        rank=process.rank,
        host=socket.gethostname() if process.host is None else process.host,
        job_id=process.job_id,
        restart=process.attempt,
        kind=type(error).__name__,
        message=str(error),
        traceback="" if isinstance(error, HpcYoloError) else "".join(traceback.format_exception(error)),
        exit_code=exit_code(error),
        is_echo=is_echo(error),
    )


def exit_code(error: Exception) -> int:
    """What this process tells its launcher of `error`."""
    return error.exit_code if isinstance(error, HpcYoloError) else 1


def in_words(error: Exception) -> Exception:
    """`error`, or what it means to a person: torch raises wherever it hears that a loader's process has died."""
    worker = LOST_WORKER.search(str(error)) if isinstance(error, RuntimeError) else None
    if worker is None and not was_handing_over(error):
        return error
    who = "a loader worker" if worker is None else f"a loader worker (process {worker['pids']})"
    if (shared_memory := explain_lost_worker(error)) is not None:
        return LostProcessError(f"{who} has died, perhaps for want of /dev/shm, {shared_memory}", hint=HINT)
    return LostProcessError(
        f"{who} has died: killed from outside, perhaps for want of memory",
        hint="see what the kernel's log says of memory; ask for more cluster.mem or fewer train.workers",
    )


def was_handing_over(error: Exception) -> bool:
    """Whether `error` says that a process died while a batch's memory was fetched from it."""
    places = traceback.extract_tb(error.__traceback__)
    return isinstance(error, OSError | EOFError) and any(
        place.filename == multiprocessing.resource_sharer.__file__ for place in places
    )


def is_echo(error: Exception) -> bool:
    """Whether this rank only noticed that another process had gone."""
    return isinstance(error, (torch.distributed.DistError, LostProcessError)) or (
        isinstance(error, RuntimeError) and LOST_PEER.search(str(error)) is not None
    )
