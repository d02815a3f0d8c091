"""Wait in a test for a condition. How long that takes depends on the machine: only a hang reaches the limit."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 600.0
POLL_S = 0.05


def wait_until(condition: Callable[[], object], what: str, detail: Callable[[], str] = lambda: "") -> None:
    """Wait until `condition` is true; raise TimeoutError with `what` and `detail` when it hangs."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_S:.0f} s for {what}; {detail()}")
        time.sleep(POLL_S)
