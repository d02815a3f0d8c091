"""The options of sbatch in `cluster.sbatch`: which have a field of their own, and which cannot be used."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hpc_yolo.spec.problems import Finding
from hpc_yolo.spec.schema import ClusterSpec

NAME = re.compile(r"[a-z][a-z0-9-]*")
_WRITTEN = re.compile(rf"\s*(--(?P<long>{NAME.pattern})(=|\s|$)|-(?P<short>[A-Za-z]))")

# Options that have a field of their own, and that field.
OWN_SBATCH_OPTIONS = {
    "job-name": "name",
    "nodes": "cluster.nodes",
    "ntasks": "cluster.tasks_per_node",
    "ntasks-per-node": "cluster.tasks_per_node",
    "ntasks-per-gpu": "cluster.tasks_per_node",
    "gpus": "cluster.gpus_per_node",
    "gpus-per-node": "cluster.gpus_per_node",
    "gpus-per-task": "cluster.gpus_per_node",
    "gpus-per-socket": "cluster.gpus_per_node",
    "tres-per-task": "cluster.cpus_per_task",
    "gres": "cluster.gres",
    "cpus-per-task": "cluster.cpus_per_task",
    "cpus-per-gpu": "cluster.cpus_per_task",
    "mem": "cluster.mem",
    "mem-per-cpu": "cluster.mem_per_cpu",
    "mem-per-gpu": "cluster.mem_per_gpu",
    "time": "cluster.time",
    "partition": "cluster.partition",
    "account": "cluster.account",
    "qos": "cluster.qos",
    "constraint": "cluster.constraint",
    "exclude": "cluster.exclude",
    "requeue": "cluster.requeue",
    "no-requeue": "cluster.requeue",
    "signal": "cluster.signal_before_s",
    "output": "output",
    "error": "output",
    "open-mode": "output",
    "array": "sweep",
}

_READ = "changes what sbatch prints, and the job's id is read from that"
_PRINTS = "prints something instead of queueing the job"
_USER = "queues the job as another user, who cannot write the run directory"
_CONTAINER = "containers are not supported"

# Options with which a job would not run, or not be found again: why, and what to do instead.
REFUSED = {
    "parsable": (_READ, "leave it out"),
    "quiet": (_READ, "leave it out"),
    "test-only": ("queues nothing", "hpc-yolo submit --dry-run"),
    "wait": ("lets sbatch return only after the job's end", "hpc-yolo submit --wait"),
    "wrap": ("replaces the script of the job", "cluster.setup"),
    "help": (_PRINTS, "leave it out"),
    "usage": (_PRINTS, "leave it out"),
    "version": (_PRINTS, "leave it out"),
    "uid": (_USER, "submit as that user"),
    "gid": (_USER, "submit as a member of that group"),
    "container": (_CONTAINER, "leave it out; cluster.setup prepares a job"),
    "container-id": (_CONTAINER, "leave it out; cluster.setup prepares a job"),
    "no-kill": ("keeps a job that has lost a node, and its other ranks cannot train on", "leave it out"),
}

SHORT = {
    **{"A": "account", "a": "array", "B": "extra-node-info", "b": "begin", "C": "constraint", "c": "cpus-per-task"},
    **{"D": "chdir", "d": "dependency", "e": "error", "F": "nodefile", "G": "gpus", "H": "hold", "h": "help"},
    **{"i": "input", "J": "job-name", "k": "no-kill", "L": "licenses", "M": "clusters", "m": "distribution"},
    **{"N": "nodes", "n": "ntasks", "O": "overcommit", "o": "output", "p": "partition", "Q": "quiet", "q": "qos"},
    **{"S": "core-spec", "s": "oversubscribe", "t": "time", "V": "version", "v": "verbose", "W": "wait"},
    **{"w": "nodelist", "x": "exclude"},
}

# Options that are passed on, as are those that are not known here. sbatch takes the beginning of a name for the whole
# where it is unique, so the names must be known: `part` is partition.
PASSED_ON = frozenset(
    (
        *("acctg-freq", "batch", "bb", "bbf", "begin", "chdir", "cluster-constraint", "clusters", "comment"),
        *("consolidate-segments", "contiguous", "core-spec", "cores-per-socket", "cpu-freq", "deadline", "delay-boot"),
        *("dependency", "distribution", "exclusive", "export", "export-file", "extra", "extra-node-info"),
        *("get-user-env", "gpu-bind", "gpu-freq", "gres-flags", "hint", "hold", "ignore-pbs", "input"),
        *("kill-on-invalid-dep", "licenses", "mail-type", "mail-user", "mcs-label", "mem-bind", "mincpus", "network"),
        *("nice", "nodefile", "nodelist", "ntasks-per-core", "ntasks-per-socket", "oom-kill-step", "overcommit"),
        *("oversubscribe", "power", "prefer", "priority", "profile", "propagate", "reboot", "reservation"),
        *("resv-ports", "segment", "sockets-per-node", "spread-job", "spread-segments", "stepmgr", "switches"),
        *("thread-spec", "threads-per-core", "time-min", "tmp", "tres-bind", "use-min-nodes", "verbose"),
        *("wait-all-nodes", "wckey"),
    )
)
# Of those, the ones whose values have commas, so that they may be YAML lists.
LISTS = frozenset(
    (
        *("acctg-freq", "cluster-constraint", "dependency", "distribution", "export", "gpu-bind", "gpu-freq"),
        *("gres-flags", "licenses", "mail-type", "mail-user", "mem-bind", "nodelist", "profile", "propagate"),
        *("reservation", "tres-bind"),
    )
)
# The form of values, of each part between commas, that sbatch would otherwise refuse or ignore; and what is allowed.
FORMS = {
    "exclusive": (re.compile(r"user|mcs|topo"), "true, user, mcs or topo"),
    "hint": (
        re.compile(r"compute_bound|memory_bound|(no)?multithread"),
        "compute_bound, memory_bound, multithread or nomultithread",
    ),
    "mail-type": (
        re.compile(
            r"none|begin|end|fail|requeue|invalid_depend|stage_out|time_limit(_[589]0)?|array_tasks|all", re.IGNORECASE
        ),
        "BEGIN, END, FAIL, REQUEUE, TIME_LIMIT, TIME_LIMIT_90, ALL or NONE, or a list of them",
    ),
    "switches": (re.compile(r"[0-9]+(@[0-9:-]+)?"), "a number of switches, such as 1 or 1@01:00:00"),
    "tmp": (re.compile(r"[0-9]+[KMGT]?", re.IGNORECASE), "a whole number with K, M, G or T"),
}
KNOWN = PASSED_ON | OWN_SBATCH_OPTIONS.keys() | REFUSED.keys()


def option_findings(cluster: ClusterSpec) -> Iterator[Finding]:
    """Yield what is wrong with `cluster.sbatch`."""
    for name, value in cluster.sbatch.items():
        found = _name_problem(name)
        if found is None and value is not None and value is not False:
            found = _value_problem(name, value, cluster)
        if found is not None:
            yield Finding(f"cluster.sbatch.{name}", *found)


def _name_problem(name: str) -> tuple[str, str] | None:
    """Return (problem, what is allowed) of the name of an option."""
    begun = sorted(known for known in KNOWN if known.startswith(name))
    if name in SHORT:
        return f"short for {SHORT[name]}", _long_form(SHORT[name])
    if not NAME.fullmatch(name):
        return "not the long name of an sbatch option", "such as comment or mail-type"
    if name in OWN_SBATCH_OPTIONS:
        return "has a field of its own", OWN_SBATCH_OPTIONS[name]
    if name not in KNOWN and len(begun) == 1:
        return f"short for {begun[0]}", _long_form(begun[0])
    return None


def _value_problem(name: str, value: object, cluster: ClusterSpec) -> tuple[str, str] | None:
    """Return (problem, what is allowed) of the value of an option."""
    if name in REFUSED:
        return REFUSED[name]
    if isinstance(value, list) and name in KNOWN - LISTS:
        return "a list is not allowed here", "text or true or false or null"
    if name in FORMS and (value is not True or name != "exclusive"):
        pattern, allowed = FORMS[name]
        parts = value if isinstance(value, list) else str(value).split(",")
        if wrong := [part for part in parts if not pattern.fullmatch(part.strip())]:
            return f"has no value {wrong[0]!r}", allowed
    if name == "clusters" and (not isinstance(value, str) or value == "all" or "," in value):
        return "a run has its jobs on one cluster", "the name of one cluster"
    if name == "hold" and cluster.requeue == "chain":
        return "holds every job of the chain, and nobody releases the later ones", (
            "leave it out, or cluster.requeue: requeue"
        )
    return None


def replacement_of(written: str) -> str | None:
    """Return what to write in a spec for `--name=value` or `-n value`, as scripts have it; None for other text."""
    found = _WRITTEN.match(written)
    name = None if found is None else found["long"] or SHORT.get(found["short"])
    if name is None:
        return None
    return REFUSED[name][1] if name in REFUSED else _long_form(name)


def _long_form(name: str) -> str:
    """Return where the option `name` is written in a spec."""
    return OWN_SBATCH_OPTIONS.get(name) or (name if name in REFUSED else f"cluster.sbatch.{name}")
