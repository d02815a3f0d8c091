"""Values of `cluster.env` and `cluster.container`: $NAME, ${NAME} and a leading ~ are expanded where the tasks run.

$$ is a dollar sign.

Nothing else is: a value cannot run a command, neither in the script of a job (`shell_text`) nor here (`expanded`).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping

from hpc_yolo.core import variables
from hpc_yolo.core.errors import SpecError
from hpc_yolo.core.variables import pieces, variables_in


def shell_text(field: str, value: str) -> str:
    """Return `value` of a field as one word of bash, which ends the shell where a variable is not set."""
    return _word(value, lambda variable: f"${{{variable}?{_unset(field, variable)}}}")


def shell_word(value: str) -> str:
    """Return `value` as one word of bash, for a command that runs after `expanded` has found all variables."""
    return _word(value, lambda variable: f"${{{variable}}}")


def literal(text: str) -> str:
    """Return the value of a field that stands for `text`, a path that begins with a slash."""
    return text.replace("$", "$$")


def expanded(field: str, value: str, environ: Mapping[str, str]) -> str:
    """Return `value` of a field with the variables of `environ`.

    Raises:
        SpecError: a variable is not set.
    """
    try:
        return variables.expanded(value, environ)
    except variables.UnsetVariable as unset:
        raise SpecError(_unset(field, unset.name), hint="set it, or write the value; $$ is a dollar sign") from None


def _word(value: str, reference: Callable[[str], str]) -> str:
    """Return `value` as one word of bash with its variables as `reference` writes them."""
    if not variables_in(value):
        return shlex.quote("".join(text for text, _ in pieces(value)))
    return "".join(f'"{reference(text)}"' if is_variable else shlex.quote(text) for text, is_variable in pieces(value))


def _unset(field: str, variable: str) -> str:
    return f"{field}: the variable {variable} is not set on this machine"
