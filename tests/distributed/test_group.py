"""A rank that dies after its check-in, before gloo has connected all ranks: the others on its node end at once.

gloo itself waits for half an hour, while the job keeps its nodes.
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
print("connected", flush=True)
with _ends_with_a_neighbour(locations, {1: process_start(pid)}):
    os.kill(pid, signal.SIGKILL)
    time.sleep(60)
"""


def test_dead_rank_ends_other_ranks_of_node():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stdout == "connected\n", "a living neighbour ended this process"
    assert done.returncode == StallError.exit_code
    assert "rank 1 on here" in done.stderr and "never met the others" in done.stderr
