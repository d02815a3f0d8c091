"""The shell lines of `cluster.setup`, checked before a job has them.

bash checks their syntax at submission only: a task that reads the spec starts no shell.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence

from hpc_yolo.core.errors import SpecError
from hpc_yolo.spec.problems import Finding
from hpc_yolo.spec.sbatch_options import replacement_of
from hpc_yolo.spec.schema import ClusterSpec

DIRECTIVE = re.compile(r"\s*#(SBATCH|SLURM|PBS|BSUB)")
CHECK_TIMEOUT_S = 5.0
_MESSAGE = re.compile(r"line (?P<number>\d+): (?P<message>.*)")


def setup_findings(cluster: ClusterSpec) -> Iterator[Finding]:
    """Yield what is wrong with the lines of `cluster.setup`."""
    for number, line in enumerate(cluster.setup_lines, 1):
        if directive := DIRECTIVE.match(line):
            message = f"line {number} is an option of sbatch, not a shell line: {line.strip()}"
            allowed = replacement_of(line[directive.end() :]) if directive[1] == "SBATCH" else None
            yield Finding("cluster.setup", message, allowed or "the field of that option, or cluster.sbatch")


def require_shell_syntax(cluster: ClusterSpec) -> None:
    """Refuse a setup that bash cannot read.

    Raises:
        SpecError: with the number of the line and the message of bash.
    """
    if problem := syntax_problem(cluster.setup_lines):
        raise SpecError(f"cluster.setup: {problem}", hint="bash -n checks shell lines in a file")


def syntax_problem(lines: Sequence[str]) -> str | None:
    """Return what bash finds wrong with the syntax of `lines`; None for good ones, and where there is no bash."""
    if not lines:
        return None
    try:
        checked = subprocess.run(
            ["bash", "-n"],
            input="\n".join([*lines, ""]),
            env={"PATH": os.defpath, "LC_ALL": "C"},
            capture_output=True,
            encoding="utf-8",  # as the script is written, whatever the locale has
            errors="replace",
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _MESSAGE.search(checked.stderr)
    if found is not None:
        return f"line {found['number']}: {found['message']}"
    return None if checked.returncode == 0 else f"not the syntax of bash: {checked.stderr.strip()}"
