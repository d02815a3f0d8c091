"""What a job was submitted with, read from what Slurm still knows of it.

sacct has kept sbatch's command line since 21.08, and `scontrol show job` shows it since 25.11. Where neither tells it,
the job's own settings say what its options were.
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
# Further ones, for where nobody kept sbatch's command line.
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
    """What a job was submitted with.

    Attributes:
        script: the text of its batch script.
        arguments: of the script; words with spaces are not told apart.
        directory: in which it starts.
        options: of sbatch's command line, as far as Slurm still knows it.
        settings: long options and their values that the job really has, wherever they came from.
    """

    script: str
    arguments: tuple[str, ...]
    directory: str
    options: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


def parse_batch_job(script: str, shown: str, submit_line: str) -> BatchJob:
    """Read what a job was submitted with.

    Args:
        script: its batch script.
        shown: of `scontrol show job`, with a line for each path.
        submit_line: of sacct; "" where accounting does not answer. scontrol shows it too since 25.11.
    """
    lines = dict(line.strip().partition("=")[::2] for line in shown.splitlines())
    command = lines.get("Command", "")  # up to 22.05 with the script's arguments
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
    """Divide sbatch's command line, which Slurm keeps joined by spaces, into options and the script's arguments.

    What belongs together is found again by the dashes: a word without one continues the option before it.

    Args:
        command: the script's path, or the path and its arguments.

    Returns:
        The options, None where `line` does not have the command, and the arguments.
    """
    words = line.split(" ")[1:]
    at = next((at for at in range(len(words)) if _begins_command(words[at:], command)), None)
    if at is None:
        return None, command.split(" ")[1:]
    options: list[str] = []
    for word in words[:at]:
        continues = bool(options) and not _OPTION.match(word)
        if continues and ("=" in options[-1] or not _OPTION.match(options[-1])):
            options[-1] += f" {word}"
        else:
            options.append(word)
    return options, words[at + 1 :]


def _begins_command(words: Sequence[str], command: str) -> bool:
    """Whether `words` begin with the script of `command`, which has an absolute path."""
    rest = " ".join(words)
    is_whole = command == rest or command.endswith(f"/{rest}")
    return is_whole or rest.startswith(f"{command} ") or (words[0][:1] != "-" and command.endswith(f"/{words[0]}"))


def _settings(fields: Mapping[str, str], options: Mapping[str, str]) -> dict[str, str]:
    """Those of `options` of sbatch, given by the name of their field, that `fields` show as set."""
    shown = {option: fields.get(name, "") for name, option in options.items()}
    return {option: value for option, value in shown.items() if value not in ("", "0", "(null)", "N/A", "None")}


def _sizes(fields: Mapping[str, str], script: str) -> dict[str, str]:
    """Options for as many nodes, tasks, CPUs, bytes and GPUs as the job of `fields` has."""
    found = _settings(fields, _SIZES)
    if "CpusPerTres" in fields:  # set by --cpus-per-gpu, which the script has
        found.pop("cpus-per-task", None)
    tasks = fields.get("NtasksPerN:B:S:C", "").partition(":")[0]
    if tasks.isdecimal() and int(tasks):
        found["ntasks-per-node"] = tasks
    gres = _settings(fields, {"TresPerNode": "gres"})
    if gres:
        each = [re.sub(r"^gres[:/]", "", one).replace("=", ":") for one in gres["gres"].split(",")]
        only_gpus = len(each) == 1 and each[0].startswith("gpu:")
        if only_gpus and not _SCRIPT_GRES.search(script):  # the two options together would be added up
            gres = {"gpus-per-node": each[0].removeprefix("gpu:")}
        else:
            gres = {"gres": ",".join(each)}
    return found | gres


def _outputs(fields: Mapping[str, str], lines: Mapping[str, str]) -> dict[str, str]:
    """Options for the files that the job writes."""
    output, error = (_as_pattern(Path(lines.get(name, "")), fields) for name in ("StdOut", "StdErr"))
    return ({"output": output} if output else {}) | ({"error": error} if error not in ("", output) else {})


def _as_pattern(path: Path, fields: Mapping[str, str]) -> str:
    """Return the pattern of sbatch that may have led to `path`: its name with the job's ids as %j and %A."""
    name = path.name.replace("%", "%%")
    for id_field, letter in (("JobId", "j"), ("ArrayJobId", "A")):
        if number := fields.get(id_field):
            name = re.sub(rf"(?<!\d){re.escape(number)}(?!\d)", f"%{letter}", name)
    return str(path.with_name(name)) if name else ""
