"""Signals in a real process: a note and nothing else, however many come."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time

import pytest
from waiting import PATIENCE_S

from hpc_yolo.resilience.stop_signal import StopRequest, describe, end_at_once_until_training

STORM_SIGNALS = (signal.SIGCONT, signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
NUM_SIGNALS = 1000
INTERVAL_S = 0.001

# Works on, with output, until it is told to end; says which signal it noted.
NOTING = """
import json, sys, threading
from hpc_yolo.resilience.stop_signal import StopRequest
stop = StopRequest()
stop.install()
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), ended.set()), daemon=True).start()
print("ready", flush=True)
noted = False
while not ended.is_set():
    if stop.stop_signal and not noted:
        noted = True
        print("noted", flush=True)
    json.dumps(list(range(1000)))
    print(".", end="", file=sys.stderr)
print(int(stop.stop_signal), flush=True)
"""

STARTING = """
import signal, sys
from hpc_yolo.resilience.stop_signal import end_at_once_until_training
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
end_at_once_until_training()
print("ready", flush=True)
sys.stdin.readline()
"""


def started(code: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT], ids=lambda number: number.name)
def test_storm_of_signals_keeps_the_first_and_raises_nothing(first):
    """Slurm sends SIGCONT and SIGTERM together, and the warning before a limit may fall into them."""
    process = started(NOTING)
    process.send_signal(first)
    assert process.stdout is not None
    assert process.stdout.readline() == "noted\n"  # signals that wait together have no order
    for number in itertools.islice(itertools.cycle(STORM_SIGNALS), NUM_SIGNALS):
        process.send_signal(number)
        time.sleep(INTERVAL_S)
    output, errors = process.communicate("end\n", timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert int(output) == first
    assert set(errors) <= {"."}, "a handler raised"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2], ids=lambda number: number.name)
def test_signal_before_the_first_step_ends_the_task_at_once(number):
    """Nothing can be lost yet; the script that started it sees which signal it was."""
    process = started(STARTING)
    process.send_signal(number)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -number


def test_handler_keeps_the_first_signal(monkeypatch):
    handlers = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    stop = StopRequest()
    stop.install()
    handlers[signal.SIGUSR2](signal.SIGUSR2, None)
    handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert stop.stop_signal is signal.SIGUSR2
    assert handlers[signal.SIGCONT] is signal.SIG_DFL


def test_before_training_the_default_actions_are_installed(monkeypatch):
    handlers = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    end_at_once_until_training()
    assert handlers == {signal.SIGTERM: signal.SIG_DFL, signal.SIGUSR2: signal.SIG_DFL}


@pytest.mark.parametrize(("number", "expected"), [(15, "SIGTERM (preempted or cancelled)"), (1, "signal 1")])
def test_signal_is_described_by_name_and_meaning(number, expected):
    assert describe(number) == expected
