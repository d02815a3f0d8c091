"""Warning before a submission that its loaders cannot feed its GPUs; from measurements, nothing is measured here."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from hpc_yolo.core.units import parse_mem_bytes
from hpc_yolo.data.memory import available_bytes
from hpc_yolo.forecast.input_rate import FILE_NAME, find_rate, input_warning, waiting_warning
from hpc_yolo.launch.plan import Plan
from hpc_yolo.spec.schema import Spec


def input_warnings(plan: Plan, waited: tuple[str, float] | None, state: Path) -> list[str]:
    """Return a sentence if measured runs of this kind waited for images, or else if measured loaders are too slow.

    Args:
        plan: of the submission.
        waited: name of a measured run of this kind, and the fraction of its steps that it waited; None without one.
        state: the user's state directory, in which `hpc-yolo bench data SPEC` leaves what it has measured.
    """
    cores, spec = cores_per_rank(plan), spec_as_run(plan)
    found = None
    if waited is not None:
        found = waiting_warning(*waited, spec, cores)
    elif (state / FILE_NAME).exists() and (rate := find_rate(state, spec)) is not None:
        found = input_warning(rate, spec, plan.world_size, cores, node_bytes(plan))
    return [] if found is None else [found]


def spec_as_run(plan: Plan) -> Spec:
    """Return the spec with the GPUs that its run gets: on this machine, fewer than it names or none."""
    cluster = msgspec.structs.replace(plan.spec.cluster, gpus_per_node=plan.gpus_per_node)
    return msgspec.structs.replace(plan.spec, cluster=cluster)


def cores_per_rank(plan: Plan) -> int:
    """Return the cores of each rank: as requested from Slurm, or its part of those of this machine."""
    if plan.uses_slurm:
        return plan.spec.cluster.cpus_per_task
    return max(len(os.sched_getaffinity(0)) // plan.tasks_per_node, 1)


def node_bytes(plan: Plan) -> int | None:
    """Return the memory of each node: as requested from Slurm, or what is free here; None where it is not known."""
    if not plan.uses_slurm:
        with contextlib.suppress(OSError):  # no Linux
            return available_bytes()
        return None
    cluster = plan.spec.cluster
    tasks = cluster.num_tasks_per_node
    for text, number in (
        (cluster.mem, 1),
        (cluster.mem_per_cpu, cluster.cpus_per_task * tasks),
        (cluster.mem_per_gpu, cluster.gpus_per_node),
    ):
        with contextlib.suppress(ValueError):  # 0 is all of a node, of unknown size
            if text is not None:
                return parse_mem_bytes(text) * number
    return None
