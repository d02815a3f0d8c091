"""Script, options and arguments of a submitted job, reconstructed from Slurm's records.

sacct keeps sbatch's command line since 21.08, and `scontrol show job` prints it since 25.11. Where neither has it, the
options are derived from the settings of the job.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpc_yolo.cluster.slurm_output import fields_of

# Fields of `scontrol show job` that an option of sbatch set.
_SETTINGS = {
    "Account": "account",
    "ExcNodeList": "exclude",
    "Features": "constraint",
    "Partition": "partition",
    "QOS": "qos",
    "ReqNodeList": "nodelist",
    "Reservation": "reservation",
    "TimeLimit": "time",
}
# Further ones, used where sbatch's command line is not recorded.
_SIZES = {
    "CPUs/Task": "cpus-per-task",
    "MinMemoryCPU": "mem-per-cpu",
    "MinMemoryNode": "mem",
    "NumNodes": "nodes",
}
_SCRIPT_GRES = re.compile(r"^#SBATCH\s+--gres\b", re.MULTILINE)
_OPTION = re.compile(r"--[a-z][a-z0-9-]*(=|$)|-[A-Za-z]")


@dataclass(frozen=True)
class BatchJob:
    """Script, options and arguments of a submitted job.

    Attributes:
        script: text of the batch script.
        arguments: of the script; arguments that contain spaces cannot be separated.
        directory: working directory.
        options: of sbatch's command line, as far as Slurm has recorded it.
        settings: long options and the values that the job has, whatever set them.
    """

    script: str
    arguments: tuple[str, ...]
    directory: str
    options: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


def parse_batch_job(script: str, shown: str, submit_line: str) -> BatchJob:
    """Return script, options and arguments of a job.

    Args:
        script: the batch script.
        shown: output of `scontrol show job`, which has a line for each path.
        submit_line: command line recorded by sacct; "" where accounting does not answer.
    """
    lines = dict(line.strip().partition("=")[::2] for line in shown.splitlines())
    command = lines.get("Command", "")  # includes the arguments of the script up to 22.05
    options, arguments = split_submit_line(lines.get("SubmitLine") or submit_line.strip(), command)
    fields = fields_of(shown)
    settings = _settings(fields, _SETTINGS)
    if options is None:
        settings |= _sizes(fields, script) | _outputs(fields, lines)
    return BatchJob(
        script=script,
        arguments=tuple(arguments),
        directory=lines.get("WorkDir", ""),
        options=tuple(options or ()),
        settings=settings,
    )


def split_submit_line(line: str, command: str) -> tuple[list[str] | None, list[str]]:
    """Split sbatch's command line, which Slurm records joined by spaces, into options and arguments of the script.

    A part that does not begin with a dash continues the option before it.

    Args:
        line: the command line.
        command: path of the script, or the path and its arguments.

    Returns:
        The options, None where `line` does not have the command, and the arguments.
    """
    parts = line.split(" ")[1:]
    script = next((index for index in range(len(parts)) if _begins_command(parts[index:], command)), None)
    if script is None:
        return None, command.split(" ")[1:]
    options: list[str] = []
    for part in parts[:script]:
        continues = bool(options) and not _OPTION.match(part)
        if continues and ("=" in options[-1] or not _OPTION.match(options[-1])):
            options[-1] += f" {part}"
        else:
            options.append(part)
    return options, parts[script + 1 :]


def _begins_command(parts: Sequence[str], command: str) -> bool:
    """Return whether `parts` begin with the script of `command`, which has an absolute path."""
    rest = " ".join(parts)
    is_whole = command == rest or command.endswith(f"/{rest}")
    return is_whole or rest.startswith(f"{command} ") or (parts[0][:1] != "-" and command.endswith(f"/{parts[0]}"))


def _settings(fields: Mapping[str, str], options: Mapping[str, str]) -> dict[str, str]:
    """Return those sbatch `options`, given by the name of their field, that are set in `fields`."""
    shown = {option: fields.get(name, "") for name, option in options.items()}
    return {option: value for option, value in shown.items() if value not in ("", "0", "(null)", "N/A", "None")}


def _sizes(fields: Mapping[str, str], script: str) -> dict[str, str]:
    """Return options for the nodes, tasks, CPUs, memory and GPUs of the job in `fields`."""
    found = _settings(fields, _SIZES)
    if "CpusPerTres" in fields:  # set by --cpus-per-gpu in the script
        found.pop("cpus-per-task", None)
    tasks = fields.get("NtasksPerN:B:S:C", "").partition(":")[0]
    if tasks.isdecimal() and int(tasks):
        found["ntasks-per-node"] = tasks
    gres = _settings(fields, {"TresPerNode": "gres"})
    if gres:
        each = [re.sub(r"^gres[:/]", "", one).replace("=", ":") for one in gres["gres"].split(",")]
        only_gpus = len(each) == 1 and each[0].startswith("gpu:")
        if only_gpus and not _SCRIPT_GRES.search(script):  # Slurm adds up the two options
            gres = {"gpus-per-node": each[0].removeprefix("gpu:")}
        else:
            gres = {"gres": ",".join(each)}
    return found | gres


def _outputs(fields: Mapping[str, str], lines: Mapping[str, str]) -> dict[str, str]:
    """Return options for the output files of the job."""
    output, error = (_as_pattern(Path(lines.get(name, "")), fields) for name in ("StdOut", "StdErr"))
    return ({"output": output} if output else {}) | ({"error": error} if error not in ("", output) else {})


def _as_pattern(path: Path, fields: Mapping[str, str]) -> str:
    """Return the file name pattern of sbatch that yields `path`: its name with the job ids replaced by %j and %A."""
    name = path.name.replace("%", "%%")
    for id_field, letter in (("JobId", "j"), ("ArrayJobId", "A")):
        if number := fields.get(id_field):
            name = re.sub(rf"(?<!\d){re.escape(number)}(?!\d)", f"%{letter}", name)
    return str(path.with_name(name)) if name else ""
