"""Measure the status screen over many runs: time to the first frame, cost of an open screen.

    python benchmarks/status.py [--runs 1000] [--events 10000] [--seconds 30] [--sweep]
    python benchmarks/status.py --screens 20 --seconds 60    # on a private Slurm: how often it is queried

`hpc-yolo bench status` measures reading, refreshing and drawing alone. The runs are written to a temporary directory
(about 300 bytes per event). `first`: from the start of the command in a terminal of 200 x 50 to its first row. `open`:
every quarter of a second four runs log a step; the fraction of a core and the memory that the process uses. With
`--sweep` the runs are the trials of one sweep, which is one row.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from hpc_yolo.bench.status import COLUMNS, ROWS, RUN_NAME, step_line, write_runs
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import Submission, add_submission
from hpc_yolo.runs.sweep import SweepDirectory, TrialRecord

TURN_S = 0.25
TURN_RUNS = 4
SWEEP = "all-trials"
TRIAL_NAME = SWEEP + "/1-{:04}"


def open_screen(root: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start `hpc-yolo status` in a pseudo-terminal; return the process and the terminal's file descriptor."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environ = os.environ | {"TERM": "xterm-256color"}
    command = [sys.executable, "-m", "hpc_yolo", "status", "--root", str(root)]
    screen = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True)
    os.close(slave)
    return screen, master


def read_for(master: int, seconds: float) -> bytes:
    """Return what is printed within `seconds`."""
    received, until_s = b"", time.monotonic() + seconds
    while (left_s := until_s - time.monotonic()) > 0:
        if select.select([master], [], [], left_s)[0]:
            try:
                received += os.read(master, 1 << 16)
            except OSError:  # the screen has gone
                break
    return received


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write_sweep(directory: Path, num_trials: int) -> None:
    """Make the runs in `directory` the trials of a sweep."""
    sweep = SweepDirectory(directory)
    numbers = range(num_trials)
    sweep.write_trials([TrialRecord(f"1-{number:04}", {"train.seed": number}, str(number)) for number in numbers])
    sweep.spec.write_text(f"name: {sweep.name}\n")


def measure_screen(root: Path, num_runs: int, num_events: int, seconds: float, name: str) -> None:
    """Print the time to the first row, and the cost of a screen that is open for `seconds`; `name` is that of runs."""
    began_s = time.monotonic()
    screen, master = open_screen(root)
    received = b""
    first_text = name.partition("/")[0].partition("{")[0].encode()
    while first_text not in received:
        received += os.read(master, 1 << 16)
    print(f"first: {time.monotonic() - began_s:.2f} s (limit 0.8)")
    while b"being read" in (latest := read_for(master, 3.0)) or not latest:
        pass
    print(f"first: all {num_runs} are read after {time.monotonic() - began_s:.1f} s")
    before_s, began_s, turn = cpu_s(screen.pid), time.monotonic(), 0
    num_bytes = 0
    while time.monotonic() < began_s + seconds:
        turn += 1
        for number in range(TURN_RUNS):
            path = root / name.format((turn * TURN_RUNS + number) % num_runs) / "journal.jsonl"
            with path.open("a") as file:
                file.write(step_line(num_events + turn))
        num_bytes += len(read_for(master, TURN_S))
    fraction = (cpu_s(screen.pid) - before_s) / (time.monotonic() - began_s)
    status = Path("/proc", str(screen.pid), "status").read_text()
    peak_mb = int(status.partition("VmHWM:")[2].split()[0]) / 1000
    print(f"open: {fraction:.1%} of a core (limit 5 %), {peak_mb:.0f} MB (limit 120), {num_bytes / seconds:.0f} B/s")
    screen.send_signal(signal.SIGTERM)
    read_for(master, 1.0)
    screen.wait(10)
    os.close(master)


def num_job_queries() -> int:
    """Return the number of job queries since the controller started."""
    counts = re.findall(r"REQUEST_JOB_INFO\S*\s+\(\s*\d+\) count:(\d+)", subprocess.check_output(["sdiag"], text=True))
    return sum(map(int, counts))


def measure_queries(root: Path, num_screens: int, seconds: float) -> None:
    """Print how often `num_screens` screens of one user query the controller within `seconds`."""
    command = ["sbatch", "--parsable", "--begin=now+1hour", "--output=/dev/null", "--wrap", "true"]
    for number in range(2):
        run = RunDirectory(root / f"run-{number}")
        run.create()
        run.spec.write_text("name: run\n")
        job_id = subprocess.check_output(command, text=True).strip()
        size = Submission(
            time=time.time(),
            executor="slurm",
            job_id=job_id,
            host="here",
            num_nodes=1,
            tasks_per_node=1,
            gpus_per_node=0,
        )
        add_submission(run, size)
    before = num_job_queries()
    screens = [open_screen(root) for _ in range(num_screens)]
    shown = [read_for(master, seconds if number == 0 else 0.5) for number, (_, master) in enumerate(screens)]
    count = num_job_queries() - before
    num_right = sum(b"BeginTime" in text or b"queued" in text for text in shown)
    print(f"queries: {count} in {seconds:.0f} s with {num_screens} screens, {num_right} of them right (limit 7)")
    for screen, master in screens:
        screen.kill()
        screen.wait()
        os.close(master)


def main() -> None:
    """Run the measurements that the options select."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--sweep", action="store_true", help="the runs are trials of one sweep")
    parser.add_argument("--screens", type=int, default=0, help="only count the queries to Slurm")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        if given.screens:
            measure_queries(root, given.screens, given.seconds)
        else:
            name = TRIAL_NAME if given.sweep else RUN_NAME
            write_runs(root, given.runs, given.events, name)
            if given.sweep:
                write_sweep(root / SWEEP, given.runs)
            measure_screen(root, given.runs, given.events, given.seconds, name)


if __name__ == "__main__":
    main()
