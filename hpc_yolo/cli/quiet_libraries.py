"""Suppression of what C libraries print to standard error, such as libjpeg for every damaged image."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO

STANDARD_ERROR = 2


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Discard what C code prints to standard error while the block runs; what Python prints is kept."""
    python_stream = sys.stderr
    python_stream.flush()
    kept = os.dup(STANDARD_ERROR)
    try:
        with open(kept, "w", errors="backslashreplace", closefd=False) as copy, open(os.devnull, "wb") as nowhere:
            if _writes_to_standard_error(python_stream):
                sys.stderr = copy
            os.dup2(nowhere.fileno(), STANDARD_ERROR)
            try:
                yield
            finally:
                sys.stderr = python_stream
    finally:
        os.dup2(kept, STANDARD_ERROR)
        os.close(kept)


def _writes_to_standard_error(stream: TextIO) -> bool:
    """Return True if `stream` writes to the descriptor of standard error; one that replaces it does not."""
    try:
        return stream.fileno() == STANDARD_ERROR
    except (AttributeError, OSError, ValueError):
        return False
