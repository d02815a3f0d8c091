"""Exit statuses: codes and signals in one number, as in a shell."""

from __future__ import annotations

import signal
import subprocess

import pytest

from hpc_yolo.core.exit_status import ExitStatus


@pytest.mark.parametrize(
    ("code", "is_signal", "expected"),
    [
        (0, False, None),
        (1, False, None),
        (128, False, None),
        (130, True, signal.SIGINT),
        (137, True, signal.SIGKILL),
        (140, True, signal.SIGUSR2),
        (143, True, signal.SIGTERM),
        (255, True, None),  # no known signal
    ],
)
def test_status_is_exit_code_or_signal(code: int, is_signal: bool, expected: signal.Signals | None) -> None:
    status = ExitStatus(code)
    assert (status.is_signal, status.signal) == (is_signal, expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGKILL], ids=lambda number: number.name)
def test_status_of_signal_equals_status_in_shell(number: signal.Signals) -> None:
    shell = f"sh -c 'kill -{int(number)} $$'; echo $?"
    reported = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout
    assert ExitStatus.of_signal(number) == ExitStatus(int(reported))
    assert ExitStatus.of_signal(number).signal == number
