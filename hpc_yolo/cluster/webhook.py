"""The address of `notify.webhook`, a secret at many services: in the environment, or in a file of its owner alone."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

from hpc_yolo.core.variables import UnsetVariable, expanded
from hpc_yolo.spec.notify import FILE_PREFIX


class NoAddress(Exception):
    """The address is not known; the text says why, and holds no secret."""


def webhook_address(written: str, environ: Mapping[str, str]) -> str:
    """Return the address that `notify.webhook` names.

    Args:
        written: in the spec.
        environ: has its variables.

    Raises:
        NoAddress: a variable is not set, or the file cannot be read or may be read by others.
    """
    try:
        text = expanded(written, environ)
        if not written.startswith(FILE_PREFIX):
            return _checked(text.strip(), written)
        path = Path(expanded(written.removeprefix(FILE_PREFIX), environ))
    except UnsetVariable as unset:
        raise NoAddress(f"the variable {unset.name} is not set") from None
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise NoAddress(f"{path} may be read by others (mode {mode:o}): chmod 600 {path}")
        return _checked(path.read_text(errors="replace").strip(), str(path))
    except OSError as error:
        raise NoAddress(f"{path}: {error.strerror}") from None


def _checked(text: str, where: str) -> str:
    if not text.startswith(("http://", "https://")) or any(character.isspace() for character in text):
        raise NoAddress(f"{where} holds no address that begins with https:// or http://")
    return text
