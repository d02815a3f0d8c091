"""A rank that dies after it has checked in and before gloo has connected all: its neighbours leave at once.

gloo itself waits for half an hour; on a cluster that holds a dead job's nodes for as long.
"""

from __future__ import annotations

import subprocess
import sys

from hpc_yolo.core.errors import StallError

PROGRAM = """
import os, signal, time
from hpc_yolo.cluster.local_process import process_start
from hpc_yolo.distributed.group import _ends_with_a_neighbour
from hpc_yolo.runs.events import RankLocation

pid = os.fork()
if not pid:
    signal.pause()
locations = [RankLocation(rank=rank, local_rank=rank, node_rank=0, host="here", pid=pid) for rank in range(2)]
with _ends_with_a_neighbour(locations, {1: process_start(pid)}):
    pass
print("met", flush=True)
with _ends_with_a_neighbour(locations, {1: process_start(pid)}):
    os.kill(pid, signal.SIGKILL)
    time.sleep(60)
"""


def test_it_takes_its_neighbours_along():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stdout == "met\n", "a living neighbour ended this process"
    assert done.returncode == StallError.exit_code
    assert "rank 1 on here" in done.stderr and "never met the others" in done.stderr
