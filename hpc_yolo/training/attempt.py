"""The body of one task: take the lease, open the journal, enter the process group, build, train, record the end.

An error on any rank is written to the run directory with rank, host and traceback, printed, and ends this process
without a collective: its peers detect it, and the launcher ends the job.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Iterator
from signal import Signals

import cv2
import torch

from hpc_yolo.cluster.process import ProcessInfo, chosen_threads, current_environment
from hpc_yolo.core.errors import CancelledError, LeaseError
from hpc_yolo.core.exit_status import ExitStatus
from hpc_yolo.core.heap import keep_freed_memory
from hpc_yolo.data.run_inputs import require_dataset_of_node
from hpc_yolo.distributed import World, choose_device, connected, make_deterministic
from hpc_yolo.resilience.attempt_end import AttemptFacts, attempt_end
from hpc_yolo.resilience.lease import Heartbeat, Lease, take_lease
from hpc_yolo.resilience.requeue import requeue_mode, slurm_job_id
from hpc_yolo.resilience.stop_signal import StopRequest, end_at_once_until_training
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.journal import JournalWriter
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.training.attempt_journal import attempt_started, open_journal, queue_successor, record_end
from hpc_yolo.training.autobatch import out_of_memory
from hpc_yolo.training.build import build
from hpc_yolo.training.failure import exit_code, explained, failure_of, is_echo, report_failure
from hpc_yolo.training.images import cpus_per_rank
from hpc_yolo.training.tensorboard import EventFiles
from hpc_yolo.training.trainer import Trainer
from hpc_yolo.training.watchdog import Watchdog


def run_task(run: RunDirectory, spec: Spec) -> None:
    """Run this process's rank of the next attempt of `run`, to its end.

    Raises:
        SystemExit: a signal stopped the attempt (128 + its number), or, with several ranks, an error ended it.
        HpcYoloError: with a single rank, an error ended it.
    """
    end_at_once_until_training()
    process = ProcessInfo.from_env(current_environment())
    announce(process)
    try:
        stopped_by = run_attempt(run, spec, process)
    except Exception as raised:
        error = explained(raised)
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
    """Print the line that separates the attempts of a job in the log of a task (`runs.logs`)."""
    if process.launcher != "submitit-local":  # which prints one of its own
        host = process.host or socket.gethostname()
        print(f"hpc-yolo: task {process.rank} on {host}, start {process.attempt} of its job", flush=True)


def run_attempt(run: RunDirectory, spec: Spec, process: ProcessInfo) -> Signals | None:
    """Run one attempt on this rank; return None when the run is finished, else the signal that stopped it."""
    with contextlib.ExitStack() as held:
        # torch raises the death of a loader worker whenever SIGCHLD comes, which may be later than the error of reading
        # from it: not while that is reported.
        held.callback(signal.signal, signal.SIGCHLD, signal.SIG_DFL)
        lease = None
        if process.rank == 0:
            lease = take_lease(run, process)
            held.enter_context(Heartbeat(lease))
            held.enter_context(settled_modes(run))
            held.enter_context(recorded_failure(run, spec.cluster, process, lease))
        if process.local_rank == 0:  # one rank of each node, before they wait for each other
            require_dataset_of_node(run, spec)
        device = choose_device(spec.train.device, process)
        journal = None if lease is None else held.enter_context(journal_of(run, spec, process, lease))
        return train(run, spec, process, device, lease, journal)


@contextlib.contextmanager
def settled_modes(run: RunDirectory) -> Iterator[None]:
    """Give the files of Slurm, submitit and TensorBoard the modes of the run directory, before and after the block."""
    with contextlib.suppress(OSError):
        run.settle_modes()
    yield
    with contextlib.suppress(OSError):
        run.settle_modes()


@contextlib.contextmanager
def recorded_failure(run: RunDirectory, limits: ClusterSpec, process: ProcessInfo, lease: Lease) -> Iterator[None]:
    """Record an error in the block as the end of this attempt.

    Nothing is recorded after the lease was lost, or if another process failed first, which has the cause.
    """
    try:
        yield
    except Exception as raised:
        error = explained(raised)
        if not isinstance(error, LeaseError) and not is_echo(error):
            end = attempt_end(AttemptFacts(limits, failures=[failure_of(process, error)]))
            detail = error.message if isinstance(error, CancelledError) else f"{type(error).__name__}: {error}"
            JournalWriter(run.journal, lease.attempt, before_write=lease.require).write(end.event(0, detail))
        raise


@contextlib.contextmanager
def journal_of(run: RunDirectory, spec: Spec, process: ProcessInfo, lease: Lease) -> Iterator[JournalWriter]:
    """Open the journal of this attempt, and TensorBoard's files beside it; in chain mode, queue the next job."""
    with contextlib.ExitStack() as held:
        files = held.enter_context(contextlib.closing(EventFiles(run))) if spec.train.tensorboard else None
        journal = open_journal(run, spec.cluster, process, lease, files)
        job_id = slurm_job_id(process)
        if job_id is not None and requeue_mode(run, process, spec.cluster) == "chain":
            queue_successor(run, process, job_id, journal)
        yield journal


def train(
    run: RunDirectory,
    spec: Spec,
    process: ProcessInfo,
    device: torch.device,
    lease: Lease | None,
    journal: JournalWriter | None,
) -> Signals | None:
    """Train until the run is finished or stopped, as `run_attempt`; `lease` and `journal` are rank 0's."""
    attempt = 0 if lease is None else lease.attempt
    # Staged copies are given back after the ranks have waited for each other at the end of `connected`.
    with contextlib.ExitStack() as held, connected(process, run, device, spec.train.start_timeout_s) as world:
        set_threads(world)
        keep_freed_memory()
        if spec.train.deterministic:
            make_deterministic()
        context = build(spec, world, run, journal.write if journal else lambda _event: None, attempt, held)
        gc.freeze()  # a full collection would visit 350,000 imported objects, 0.15 s in the middle of a step
        stop = StopRequest()
        stop.install()
        watchdog = Watchdog(
            world,
            run,
            attempt,
            timeout_s=spec.train.stall_timeout_s,
            start_timeout_s=spec.train.start_timeout_s,
        )
        trainer = Trainer(context, world, run, journal, stop, lease.require if lease else lambda: None, watchdog)
        if journal is not None:
            journal.write(attempt_started(world, trainer))
        try:
            stopped_by = trainer.run()
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, context, world) from None
        if journal is not None:
            # The other ranks wait at the block's end: the first exit would end the job before it is queued again.
            record_end(run, spec.cluster, process, journal, trainer, stopped_by)
    return stopped_by


def set_threads(world: World) -> None:
    """Divide this node's cores among its ranks, unless OMP_NUM_THREADS gives the number of threads of each."""
    torch.set_num_threads(chosen_threads(current_environment(), world.process.launcher) or cpus_per_rank(world))
    cv2.setNumThreads(0)  # images are decoded in many processes already
