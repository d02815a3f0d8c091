"""Values of `cluster.env`: $NAME, ${NAME} and a leading ~ are expanded where the tasks run; $$ is a dollar sign.

Nothing else is: a value cannot run a command, neither in the script of a job (`shell_text`) nor here (`expanded`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from hpc_yolo.core import variables
from hpc_yolo.core.errors import SpecError
from hpc_yolo.core.variables import pieces, variables_in


def shell_text(name: str, value: str) -> str:
    """Return `value` of the variable `name` as one word of bash, which ends the shell where a variable is not set."""
    if not variables_in(value):
        return shlex.quote("".join(text for text, _ in pieces(value)))
    return "".join(
        f'"${{{text}?{_unset(name, text)}}}"' if is_variable else shlex.quote(text)
        for text, is_variable in pieces(value)
    )


def expanded(name: str, value: str, environ: Mapping[str, str]) -> str:
    """Return `value` of the variable `name` with the variables of `environ`.

    Raises:
        SpecError: a variable is not set.
    """
    try:
        return variables.expanded(value, environ)
    except variables.UnsetVariable as unset:
        raise SpecError(_unset(name, unset.name), hint="set it, or write the value; $$ is a dollar sign") from None


def _unset(name: str, variable: str) -> str:
    return f"cluster.env.{name}: the variable {variable} is not set on this machine"
