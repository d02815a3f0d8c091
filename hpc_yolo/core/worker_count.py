"""The number of loader worker processes."""

from __future__ import annotations


def worker_count(requested: int, num_cores: int, *, is_on_cpu: bool) -> int:
    """Return the loader processes of a task: as requested, but at most its cores, of which one on a CPU is the model's.

    At least one where any is requested: beside a single core it makes images while the task waits for other ranks.

    Args:
        requested: train.workers or --workers.
        num_cores: that the task may use.
        is_on_cpu: the model computes on these cores.
    """
    return min(requested, max(num_cores - is_on_cpu, 1))
