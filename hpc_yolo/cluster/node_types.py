"""The kinds of nodes of a cluster, as sinfo prints them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hpc_yolo.cluster.slurm_output import parse_slurm_time_s

_GPUS = re.compile(r"(?:^|,)gpu:(?:(?P<type>[A-Za-z_][^:,(]*):)?(?P<count>\d+)")


@dataclass(frozen=True)
class NodeType:
    """Nodes of one partition that are alike.

    Attributes:
        gpu_type: None for GPUs without a type.
        mem_mb: memory of a node.
        max_time_s: longest job; None where unlimited or unknown.
        features: what constraints select, with commas; may be empty.
    """

    partition: str
    gpu_type: str | None
    num_gpus: int
    num_cpus: int
    mem_mb: int
    max_time_s: int | None
    features: str


def parse_node_types(text: str) -> list[NodeType]:
    """Parse sinfo's lines: partition | gres | CPUs | memory in MB | time limit | features. Other lines are skipped."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) < 6 or not fields[0]:
            continue
        partition, gres, cpus, mem, limit, features = fields[:6]
        gpus = _GPUS.search(gres)
        found.append(
            NodeType(
                partition=partition.rstrip("*"),
                gpu_type=gpus["type"] if gpus else None,
                num_gpus=int(gpus["count"]) if gpus else 0,
                num_cpus=_whole(cpus),
                mem_mb=_whole(mem),
                max_time_s=parse_slurm_time_s(limit),
                features="" if features == "(null)" else features,
            )
        )
    return found


def _whole(text: str) -> int:
    """Return the number in front, such as 64 of "64+"; 0 where there is none."""
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 0
