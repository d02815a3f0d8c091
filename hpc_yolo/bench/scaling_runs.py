"""The runs of a scaling benchmark: copies of a spec with other numbers of ranks, submitted as any run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from hpc_yolo.cluster.jobs import JobWatch, alive_jobs, current_jobs, stop_jobs
from hpc_yolo.cluster.process import current_environment
from hpc_yolo.core.errors import RunError, SpecError, TrainingError
from hpc_yolo.launch.local_gpus import chosen_gpus, visible_gpus
from hpc_yolo.launch.plan import Plan, choose_executor
from hpc_yolo.launch.prepare import submitted_spec
from hpc_yolo.launch.submit import submit
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded
from hpc_yolo.runs.failures import first_failure
from hpc_yolo.runs.journal import read_events
from hpc_yolo.spec.schema import ClusterSpec, Spec

POLL_S = 0.5
SPEED_OF_TRAIN = ("epochs", "device", "cuda_graphs", "workers", "cache", "augment_device")
SPEED_OF_CLUSTER = ("nodes", "gpus_per_node", "gpu_type", "tasks_per_node", "cpus_per_task", "env")


def usual_ranks(spec: Spec) -> list[int]:
    """Return the powers of two up to the ranks of `spec`, and that number."""
    largest = spec.cluster.world_size
    powers = [2**power for power in range(largest.bit_length()) if 2**power < largest]
    return [*powers, largest]


def scaled_spec(spec: Spec, ranks: int, *, epochs: int, is_local: bool, same_batch: bool, most_ranks: int) -> Spec:
    """Return a copy of `spec` with `ranks` ranks and nothing after its training, in a directory of its own.

    Each rank has as many images as a rank of `spec`, or with `same_batch` the step as many. Ranks on CPUs have equally
    many threads, since one alone would use the cores of the others: `cpus_per_task`, or here those that they have if
    there are `most_ranks` of them; here they load their images themselves.

    Raises:
        SpecError: so many ranks do not fill nodes, or the batch cannot be divided among them.
    """
    cluster = _with_ranks(spec.cluster, ranks)
    batch = spec.train.batch
    if batch <= 0:
        raise SpecError("train.batch: must be a number to measure scaling", hint="--set train.batch=16")
    if not same_batch:
        batch = batch // spec.cluster.world_size * ranks
    if batch % ranks or not batch:
        raise SpecError(
            f"train.batch: {batch} images cannot be divided among {ranks} ranks", hint="--set train.batch=N"
        )
    train = msgspec.structs.replace(spec.train, epochs=epochs, batch=batch, val_every=1, patience=0)
    if not spec.cluster.gpus_per_node:  # a task on CPUs may else use all cores of a node
        threads = max(len(os.sched_getaffinity(0)) // most_ranks, 1) if is_local else cluster.cpus_per_task
        cluster = msgspec.structs.replace(cluster, env={"OMP_NUM_THREADS": str(threads), **cluster.env})
        train = msgspec.structs.replace(train, workers=0 if is_local else train.workers)
    return Spec(
        name=f"{ranks}-ranks",
        model=spec.model,
        data=spec.data,
        weights=spec.weights,
        output=str(Path(spec.output) / f"{spec.name}-scaling"),
        site=spec.site,
        cluster=cluster,
        train=train,
        checkpoint=spec.checkpoint,
    )


def _with_ranks(cluster: ClusterSpec, ranks: int) -> ClusterSpec:
    """Return `cluster` with `ranks` ranks on as few nodes as they fill."""
    most = cluster.num_tasks_per_node
    if cluster.nodes == 1 and not cluster.gpus_per_node:
        most = max(most, ranks)
    on_node = min(ranks, most)
    if ranks % on_node:
        raise SpecError(
            f"{ranks} ranks do not fill nodes of {on_node}",
            hint=f"--ranks with multiples of {on_node} beyond {on_node}",
        )
    if cluster.gpus_per_node:
        return msgspec.structs.replace(cluster, nodes=ranks // on_node, gpus_per_node=on_node, tasks_per_node=None)
    return msgspec.structs.replace(cluster, nodes=ranks // on_node, tasks_per_node=on_node)


def require_ranks(plan: Plan, ranks: int) -> None:
    """Check that `plan` has `ranks` ranks, on GPUs where its spec requests some: a run on this machine may have fewer.

    Raises:
        SpecError: so many do not fit.
    """
    wants_gpus = plan.spec.cluster.gpus_per_node > 0
    if plan.uses_slurm or (plan.world_size == ranks and (plan.gpus_per_node == ranks or not wants_gpus)):
        return
    asked = f"--ranks {ranks}:"
    if plan.executor == "debug":
        raise SpecError(f"{asked} executor debug runs 1 rank", hint="--set cluster.executor=local")
    if not wants_gpus:
        most = len(os.sched_getaffinity(0))
        raise SpecError(f"{asked} each rank needs a core, and {most} fit this machine", hint=f"--ranks up to {most}")
    device = plan.spec.train.device
    most = len(chosen_gpus(device, visible_gpus(current_environment())))
    raise SpecError(
        f"{asked} each rank needs a GPU, and {most} fit this machine with train.device {device}",
        hint=f"--ranks up to {most}" if most else "--set cluster.gpus_per_node=0 --ranks 1,2 measures ranks on CPUs",
    )


def require_same_conditions(plan: Plan) -> None:
    """Check that a run of an earlier call ran under the conditions of `plan`, in what decides its speed.

    What decides what it learns is checked when the plan is made.

    Raises:
        RunError: it did not; the message has the fields that differ.
    """
    if not plan.run.exists:
        return
    before, now = _conditions(submitted_spec(plan.run)), _conditions(plan.spec)
    changed = [f"{field}: {before[field]} -> {now[field]}" for field in now if before[field] != now[field]]
    if changed:
        raise RunError(
            f"{plan.run.path}: was measured under other conditions ({', '.join(changed)})",
            hint=f"remove {plan.run.path.parent}, or measure under another name with --set name=NAME",
        )


def _conditions(spec: Spec) -> dict[str, object]:
    """Return the fields that decide the speed of a run and may differ between its attempts, by dotted name."""
    train = {f"train.{name}": getattr(spec.train, name) for name in SPEED_OF_TRAIN}
    cluster = {f"cluster.{name}": getattr(spec.cluster, name) for name in SPEED_OF_CLUSTER}
    return {"executor": choose_executor(spec.cluster.executor)[0], **train, **cluster}


def is_finished(run: RunDirectory) -> bool:
    """Return whether the last attempt of `run` has finished its training."""
    ends = [event for event in read_events(run.journal) if isinstance(event, AttemptEnded)] if run.exists else []
    return bool(ends) and ends[-1].outcome == AttemptEnded.FINISHED


def run_all(plans: Sequence[Plan], say: Callable[[str], None]) -> None:
    """Train `plans` that have not finished: local ones one after another, Slurm jobs at once.

    Raises:
        TrainingError: one ended before it had finished; the message has the error of its first rank that failed.
        KeyboardInterrupt: the user stopped it; local runs are ended, jobs stay.
        ClusterError: Slurm refuses a job.
    """
    waiting: list[Plan] = []
    for plan in plans:
        if is_finished(plan.run):
            say(f"{plan.run.name}: measured before, {plan.run.path}")
            continue
        submission = submit(plan)
        say(f"{plan.run.name}: {'Slurm job' if plan.uses_slurm else 'local job'} {submission.job_id}")
        waiting.append(plan)
        if not plan.uses_slurm:
            _wait_local(plan.run)
    for plan in waiting:
        _wait(plan.run)


def _wait_local(run: RunDirectory) -> None:
    try:
        _wait(run)
    except BaseException:
        stop_jobs(alive_jobs(current_jobs(run)))
        raise


def _wait(run: RunDirectory) -> None:
    """Return when `run` has finished."""
    watch = JobWatch(run, owned=True)
    while watch.is_alive():
        time.sleep(POLL_S)
    if not is_finished(run):
        failure = first_failure(run)
        raise TrainingError(
            f"{run.path}: ended before it had finished{'' if failure is None else f': {failure.text}'}",
            hint=f"hpc-yolo logs {run.word}; call this again, and it goes on",
        )
