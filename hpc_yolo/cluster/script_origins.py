"""Where each line of a batch script comes from: the fields of `cluster.sbatch.script` and their locations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from hpc_yolo.cluster.sbatch import dependent_exports
from hpc_yolo.spec.problems import Location
from hpc_yolo.spec.schema import ClusterSpec
from hpc_yolo.spec.site_values import SUFFIX_ORIGIN

FIXED = "the same in every script"
DEFAULT = "default"
# Options of the script and the fields that determine them; other options are named as their field.
OPTION_FIELDS = {
    "job-name": ("name",),
    "nodes": ("cluster.nodes",),
    "ntasks-per-node": ("cluster.tasks_per_node", "cluster.gpus_per_node"),
    "gpus-per-node": ("cluster.gpus_per_node", "cluster.gpu_type"),
    "gres": ("cluster.gres", "cluster.gpus_per_node", "cluster.gpu_type", "cluster.gpu_request"),
    "account": ("cluster.account", SUFFIX_ORIGIN),
    "no-requeue": ("cluster.requeue",),
    "signal": ("cluster.signal_before_s",),
    "open-mode": (),
    "output": ("output", "name"),
}
SRUN_FIELDS = ("cluster.cpus_per_task", "cluster.cpu_bind", "cluster.srun", "cluster.prefix", "cluster.python")
BESIDE_FIELDS = {"notify-problems": "notify", "track-beside": "tracking"}
SETUP_BEGIN = "source /dev/stdin <<"


def line_origins(script: str, cluster: ClusterSpec, origins: Mapping[str, Location]) -> list[tuple[str, str]]:
    """Return (line, its origin) for the lines of `script`; lines that no field changes are counted, not repeated.

    Args:
        script: made of `cluster`.
        cluster: what the job requests.
        origins: location of each value by its dotted field.
    """
    rows: list[tuple[str, str]] = []
    num_fixed = 0
    for line, fields in _fields_of_lines(script, cluster):
        if fields is None:
            num_fixed += 1
        else:
            rows.append((line, _origin(fields, origins)))
    return [*rows, (f"{num_fixed} other lines", FIXED)]


def _fields_of_lines(script: str, cluster: ClusterSpec) -> Iterator[tuple[str, tuple[str, ...] | None]]:
    """Yield each line of `script` with the fields that determine it; None for one that is in every script."""
    lines = script.splitlines()
    before_tasks = [
        *_module_fields(cluster),
        *_setup_fields(cluster),
        *((line, _export_fields(line)) for line in dependent_exports(cluster)),
    ]
    number = 0
    while number < len(lines):
        line = lines[number]
        if line.startswith(SETUP_BEGIN):
            yield line, None
            yield lines[number + 1], None
            yield from before_tasks
            number += 2 + len(before_tasks)
            continue
        number += 1
        if line.startswith("#SBATCH --"):
            name = line.removeprefix("#SBATCH --").partition("=")[0]
            yield line, _option_fields(name, cluster)
        elif line.startswith("export ") and "=" in line:
            yield line, _export_fields(line)
        elif line.endswith(" &"):
            fields = (field for name, field in BESIDE_FIELDS.items() if f" {name} " in line)
            yield line, (next(fields, "validate"), "cluster.python")
        elif line.endswith(" &&"):
            yield line, ("cluster.container", "cluster.python")
        elif line.startswith("srun "):
            yield line, (*SRUN_FIELDS, "cluster.container")
        elif line == "#!/bin/bash -l":
            yield line, ("cluster.login_shell",)
        else:
            yield line, None


def _option_fields(name: str, cluster: ClusterSpec) -> tuple[str, ...]:
    if cluster.sbatch.get(name) not in (None, False):
        return (f"cluster.sbatch.{name}",)
    return OPTION_FIELDS.get(name, (f"cluster.{name.replace('-', '_')}",))


def _export_fields(line: str) -> tuple[str, ...]:
    return (f"cluster.env.{line.removeprefix('export ').partition('=')[0]}",)


def _module_fields(cluster: ClusterSpec) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each line that loads modules with the items of the list that it is made of."""
    number = 0
    for line in cluster.module_lines:
        count = len(line.split()) - 2 if line.startswith("module load ") else 1
        yield line, tuple(f"cluster.modules[{index}]" for index in range(number, number + count))
        number += count


def _setup_fields(cluster: ClusterSpec) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each line of the setup with the field, or the item of the list, that it is in."""
    blocks = (
        {"cluster.setup": cluster.setup}
        if isinstance(cluster.setup, str)
        else {f"cluster.setup[{index}]": block for index, block in enumerate(cluster.setup)}
    )
    for field, block in blocks.items():
        for line in block.removesuffix("\n").split("\n"):
            yield line, (field,)


def _origin(fields: tuple[str, ...], origins: Mapping[str, Location]) -> str:
    """Return the locations of `fields` and of what is in them, each once; `DEFAULT` where none is written."""
    found = (
        _shown(location)
        for field in fields
        for name, location in origins.items()
        if name == field or (name.startswith(f"{field}.") and "[" not in name)
    )
    return ", ".join(dict.fromkeys(found)) or DEFAULT


def _shown(location: Location) -> str:
    return location.source if location.is_option else f"{Path(location.source).name}:{location.line}"
