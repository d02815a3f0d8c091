"""Values of `cluster.env`: $NAME, ${NAME} and a leading ~ are expanded where the tasks run; $$ is a dollar sign.

Nothing else is: a value cannot run a command, neither in the script of a job (`shell_text`) nor here (`expanded`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping

from hpc_yolo.core.errors import SpecError

_REFERENCE = re.compile(r"\$(?:\$|(?P<bare>[A-Za-z_][A-Za-z0-9_]*)|\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)\})")


def variables_in(value: str) -> list[str]:
    """Return the names of the variables in `value`, in its order."""
    return [text for text, is_variable in _pieces(value) if is_variable]


def shell_text(name: str, value: str) -> str:
    """Return `value` of the variable `name` as one word of bash, which ends the shell where a variable is not set."""
    if not variables_in(value):
        return shlex.quote("".join(text for text, _ in _pieces(value)))
    return "".join(
        f'"${{{text}?{_unset(name, text)}}}"' if is_variable else shlex.quote(text)
        for text, is_variable in _pieces(value)
    )


def expanded(name: str, value: str, environ: Mapping[str, str]) -> str:
    """Return `value` of the variable `name` with the variables of `environ`.

    Raises:
        SpecError: a variable is not set.
    """
    for variable in variables_in(value):
        if variable not in environ:
            raise SpecError(_unset(name, variable), hint="set it, or write the value; $$ is a dollar sign")
    return "".join(environ[text] if is_variable else text for text, is_variable in _pieces(value))


def _unset(name: str, variable: str) -> str:
    return f"cluster.env.{name}: the variable {variable} is not set on this machine"


def _pieces(value: str) -> Iterator[tuple[str, bool]]:
    """Yield (text, False) and (name of a variable, True)."""
    if value == "~" or value.startswith("~/"):
        yield "HOME", True
        value = value[1:]
    end = 0
    for found in _REFERENCE.finditer(value):
        if found.start() > end:
            yield value[end : found.start()], False
        variable = found["bare"] or found["braced"]
        yield (variable, True) if variable else ("$", False)
        end = found.end()
    if end < len(value):
        yield value[end:], False
