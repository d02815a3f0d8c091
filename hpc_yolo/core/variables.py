"""Variables in texts of a spec: $NAME, ${NAME} and a leading ~, and which of them have a value only inside of a job."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_REFERENCE = re.compile(r"\$(?:\$|(?P<bare>[A-Za-z_][A-Za-z0-9_]*)|\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)\})")
# Set by Slurm or the site for each job, on each of its nodes; a login node may have another value.
_JOB_PREFIX = "SLURM"
_JOB_NAMES = frozenset(
    {"TMPDIR", "TMP", "TEMP", "TEMPDIR", "JOB_TMPDIR", "LOCAL_SCRATCH", "JOBFS", "JOBID", "LSCRATCH"}
)


class UnsetVariable(Exception):
    """A variable in a text is not set; `name` is its name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Yield (text, False) and (name of a variable, True); $$ is a dollar sign, a leading ~ the variable HOME."""
    if text == "~" or text.startswith("~/"):
        yield "HOME", True
        text = text[1:]
    end = 0
    for found in _REFERENCE.finditer(text):
        if found.start() > end:
            yield text[end : found.start()], False
        variable = found["bare"] or found["braced"]
        yield (variable, True) if variable else ("$", False)
        end = found.end()
    if end < len(text):
        yield text[end:], False


def variables_in(text: str) -> list[str]:
    """Return the names of the variables in `text`, in its order."""
    return [piece for piece, is_variable in pieces(text) if is_variable]


def expanded(text: str, environ: Mapping[str, str]) -> str:
    """Return `text` with the values of its variables.

    Raises:
        UnsetVariable: one is not in `environ`.
    """
    for name in variables_in(text):
        if name not in environ:
            raise UnsetVariable(name)
    return "".join(environ[piece] if is_variable else piece for piece, is_variable in pieces(text))


def is_of_job(name: str) -> bool:
    """Return True for a variable that differs from job to job, and has no meaning where a job is submitted."""
    return name.startswith(_JOB_PREFIX) or name in _JOB_NAMES
