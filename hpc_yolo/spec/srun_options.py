"""The options of srun in `cluster.srun`: which cannot be given, because the script or other fields set them."""

from __future__ import annotations

from collections.abc import Iterator

from hpc_yolo.spec.problems import Finding
from hpc_yolo.spec.sbatch_options import NAME
from hpc_yolo.spec.schema import ClusterSpec

SET_BY_SCRIPT = {
    "cpus-per-task": "cluster.cpus_per_task",
    "export": "cluster.env; tasks get all variables of the job",
    "kill-on-bad-exit": "leave it out: a failed rank ends the job",
    "label": "leave it out: the log has each line with its rank",
    "unbuffered": "leave it out: the log has each line at once",
    "wait": "leave it out: a failed rank ends the job",
}
_RANKS = "tasks would not be the ranks of the job"
_OUTPUT = "the output of all tasks is read from the log of the job"
_OTHER = "srun would not start the tasks"
REFUSED = {
    **dict.fromkeys(("nodes", "nodelist", "nodefile", "exclude", "relative", "use-min-nodes"), _RANKS),
    **dict.fromkeys(("ntasks", "ntasks-per-node", "ntasks-per-gpu", "ntasks-per-core", "ntasks-per-socket"), _RANKS),
    **dict.fromkeys(("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket", "gres"), _RANKS),
    **dict.fromkeys(("multi-prog", "het-group", "jobid", "array", "spread-job", "tres-per-task"), _RANKS),
    **dict.fromkeys(("output", "error", "input", "open-mode", "pty", "quiet"), _OUTPUT),
    **dict.fromkeys(("help", "usage", "version", "test-only", "no-allocate", "immediate", "async"), _OTHER),
}
FIELDS_OF_RANKS = "cluster.nodes, cluster.gpus_per_node, cluster.tasks_per_node"


def srun_findings(cluster: ClusterSpec) -> Iterator[Finding]:
    """Yield what is wrong with `cluster.srun` and `cluster.prefix`, which follows it on the command line."""
    if cluster.prefix and (not cluster.prefix[0].strip() or cluster.prefix[0].startswith("-")):
        message = f"{cluster.prefix[0]!r} is not a command"
        yield Finding("cluster.prefix", message, "such as [numactl, --localalloc]; options of srun are cluster.srun")
    for name in cluster.srun:
        if len(name) == 1 or not NAME.fullmatch(name):
            yield Finding(f"cluster.srun.{name}", "not the long name of an srun option", "such as cpu-bind or mpi")
        elif name in SET_BY_SCRIPT:
            yield Finding(f"cluster.srun.{name}", "is set by the script of the job", SET_BY_SCRIPT[name])
        elif name in REFUSED:
            allowed = FIELDS_OF_RANKS if REFUSED[name] == _RANKS else "leave it out"
            yield Finding(f"cluster.srun.{name}", REFUSED[name], allowed)
        elif begun := sorted(known for known in (*SET_BY_SCRIPT, *REFUSED) if known.startswith(name)):
            # srun takes the beginning of a name for the whole.
            yield Finding(f"cluster.srun.{name}", f"short for {begun[0]}, which cannot be given", "leave it out")
