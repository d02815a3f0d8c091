"""When Slurm would start a job if it asked for something else: one `sbatch --test-only` for each way to ask.

A way is a list of options of sbatch's command line, which replace those of the script. `hpc-yolo submit` takes the same
options, so that a way is also what a user types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.node_types import NodeType
from hpc_yolo.cluster.site import Partition
from hpc_yolo.cluster.slurm_command import Run, run_command
from hpc_yolo.core.errors import ClusterError, SchedulerUnavailable
from hpc_yolo.spec.schema import ClusterSpec

MAX_WAYS = 12
MAX_QOS = 4
TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Way:
    """A way to ask for a job.

    Attributes:
        options: as a user types them; of sbatch too, unless the way has a script of its own.
        num_nodes: the number of nodes with them.
        script: replaces that of the job, for another type of GPU; "": options are enough.
    """

    options: tuple[str, ...]
    num_nodes: int
    script: str = ""

    @property
    def text(self) -> str:
        """The options as a user types them; "as it is" without any."""
        options = self.options if self.script else [option.replace("=", " ", 1) for option in self.options]
        return " ".join(options) or "as it is"


@dataclass(frozen=True)
class WayStart:
    """The answer of Slurm to a way.

    Attributes:
        start: expected, as YYYY-MM-DDThh:mm:ss in the time zone of this machine; None where Slurm names none.
        refusal: why Slurm would not queue the job; "" where it would.
    """

    way: Way
    start: str | None = None
    nodes: str | None = None
    refusal: str = ""


def ways_to_ask(
    cluster: ClusterSpec,
    batch: int,
    partitions: Mapping[str, Partition],
    qos: Sequence[str],
    *,
    time: str | None = None,
    first: Sequence[Way] = (),
) -> list[Way]:
    """Return the ways to ask for a job of `cluster`, that of the spec first, at most `MAX_WAYS`; one change in each.

    Args:
        cluster: what the spec requests.
        batch: images of a step, which other numbers of ranks have to divide; not positive: any number divides it.
        partitions: of the site.
        qos: the qualities of service that the user may request.
        time: another time limit that would be enough.
        first: further ways, which are asked first.
    """
    nodes = cluster.nodes
    ways = [Way((), nodes), *first]
    if time is not None and time != cluster.time:
        ways.append(Way((f"--time={time}",), nodes))
    ways += [Way((f"--nodes={number}",), number) for number in _other_numbers_of_nodes(cluster, batch, partitions)]
    other_qos = [name for name in qos if name != cluster.qos] if len(qos) > 1 else []
    ways += [Way((f"--qos={name}",), nodes) for name in other_qos[:MAX_QOS]]
    used = cluster.partitions or [one.name for one in partitions.values() if one.is_default]
    for partition in partitions.values():
        fits = partition.num_nodes is None or partition.num_nodes >= nodes
        if partition.state == "UP" and fits and [partition.name] != used:
            ways.append(Way((f"--partition={partition.name}",), nodes))
    return ways[:MAX_WAYS]


def with_gpus(
    cluster: ClusterSpec, partitions: Mapping[str, Partition], node_types: Sequence[NodeType]
) -> dict[str, Partition]:
    """Return those of `partitions` whose nodes have the GPUs that `cluster` requests; all of them where none has any.

    Args:
        cluster: what the spec requests.
        partitions: of the site, by name.
        node_types: the kinds of nodes in each; a site may not list GPUs.
    """
    if not cluster.gpus_per_node or not any(one.num_gpus for one in node_types):
        return dict(partitions)
    fitting = {
        one.partition
        for one in node_types
        if one.num_gpus >= cluster.gpus_per_node and cluster.gpu_type in (None, one.gpu_type)
    }
    return {name: partition for name, partition in partitions.items() if name in fitting} or dict(partitions)


def ask_starts(
    ways: Sequence[Way],
    script: str,
    options: Sequence[str] = (),
    *,
    run: Run = run_command,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Iterator[WayStart]:
    """Yield the answer of Slurm to each of `ways`; nothing is queued.

    It ends where Slurm does not answer: further calls would wait as long.

    Args:
        ways: of `ways_to_ask`.
        script: the text of the batch script.
        options: of sbatch's command line, for all ways.
        run: runs sbatch.
        on_progress: called with (number of answers, number of ways).
    """
    for index, way in enumerate(ways):
        on_progress(index, len(ways))
        try:
            asked = [*options] if way.script else [*options, *way.options]
            found = scheduler.estimate_start(way.script or script, asked, timeout_s=TIMEOUT_S, run=run)
        except SchedulerUnavailable:
            return
        except ClusterError as error:
            yield WayStart(way, refusal=error.message)
        else:
            yield WayStart(way, start=found.start, nodes=found.nodes)
    on_progress(len(ways), len(ways))


def _other_numbers_of_nodes(cluster: ClusterSpec, batch: int, partitions: Mapping[str, Partition]) -> list[int]:
    """Return half and twice the number of nodes, where the batch can be divided and a partition has as many."""
    sizes = [one.num_nodes for one in partitions.values() if not cluster.partitions or one.name in cluster.partitions]
    most = None if None in sizes else max((size for size in sizes if size is not None), default=None)
    found = []
    for number in (cluster.nodes // 2, 2 * cluster.nodes):
        is_divisible = batch <= 0 or (number > 0 and batch % (number * cluster.num_tasks_per_node) == 0)
        if number > 0 and is_divisible and (most is None or number <= most):
            found.append(number)
    return found
