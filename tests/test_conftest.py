"""tests/conftest.py fails a test that leaks or skips, and no other test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from slurm_cluster import unavailable_reason

TESTS = Path(__file__).parent

GUILTY = {
    "child process": "KEPT.append(subprocess.Popen(['sleep', '20']))",
    "listening port": "KEPT.append(socket.create_server(('127.0.0.1', 0)))",
    "thread": "threading.Thread(target=END.wait, args=(20,)).start()",
    "environment variable LEAKED": "os.environ['LEAKED'] = '1'",
}
if unavailable_reason() is None:
    GUILTY["no test of it may be skipped"] = "pytest.skip('too lazy')"


def test_leaking_test_fails_and_next_test_passes(tmp_path: Path) -> None:
    """Run all leaks in one session, to save time, each followed by a test without a leak."""
    lines = ["import os, socket, subprocess, threading, pytest, conftest"]
    lines += ["KEPT, END, conftest.GRACE_S = [], threading.Event(), 0.2"]
    for number, action in enumerate(GUILTY.values()):
        lines += ["@pytest.mark.slurm", f"def test_leaking_{number}():", f"    {action}"]
        lines += [f"def test_clean_{number}():", "    pass"]
    lines += ["def test_end():", "    END.set()", "    KEPT[0].kill()"]
    (tmp_path / "test_leaky.py").write_text("\n".join(lines))
    command = [sys.executable, "-m", "pytest", "-c", str(TESTS.parent / "pyproject.toml"), "-p", "conftest", "-rEf"]
    environ = {**os.environ, "PYTHONPATH": str(TESTS), "COLUMNS": "1000"}
    options = ["-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run([*command, *options], env=environ, capture_output=True, text=True, check=False)
    summary = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    assert len(summary) == len(GUILTY), done.stdout
    assert all("test_leaking" in line for line in summary)
    for complaint in GUILTY:
        assert complaint in done.stdout
