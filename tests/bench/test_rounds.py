"""Order and number of rounds."""

from __future__ import annotations

import subprocess
import sys

from hpc_yolo.bench.rounds import Rounds, Work, cpu_s, measure


def test_reference_runs_first_and_last_and_first_round_is_dropped():
    ran, seen = [], []
    rounds = Rounds(2, on_round=lambda *progress: seen.append(progress))
    works = [Work("b", lambda: ran.append("b"), 5, "image"), Work("c", lambda: ran.append("c"))]
    found = measure("name", works, Work("a", lambda: ran.append("a")), rounds)
    assert "".join(ran) == "abca" * 3
    assert [(timing.name, timing.amount, len(timing.seconds)) for timing in found.timings] == [("b", 5, 2), ("c", 1, 2)]
    assert (found.bench, found.clock, found.reference) == ("name", "cpu", "a")
    assert len(found.reference_s) == len(found.again_s) == 2
    assert seen == [("name", 1, 3), ("name", 2, 3), ("name", 3, 3)]


def test_cpu_time_includes_child_processes():
    before_s = cpu_s()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.2: pass"], check=True)
    assert cpu_s() - before_s >= 0.2


def test_quick_rounds_do_the_smaller_amount():
    assert (Rounds(1).amount(64, 8), Rounds(1, is_quick=True).amount(64, 8)) == (64, 8)
