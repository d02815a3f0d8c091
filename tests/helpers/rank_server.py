"""Run ranks of attempts inside hosts of `network_hosts`; a program, so that torch is imported once for all of them.

Each input line is a request, one JSON object: `run` (directory), `ranks` (a list of `pid`, a process in the host's
namespaces, and `env`) and `unreachable_s`. The reply is a line with `code` and `output` of every rank. As under
srun --kill-on-bad-exit, the others are killed when one has failed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch

from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.distributed import connected, rendezvous
from hpc_yolo.runs.directory import RunDirectory

START_S = 60
NAMESPACES = ("net", "uts", "mnt")  # the last one changes what /proc shows


def main() -> None:
    """Serve requests until the input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(run_ranks(json.loads(line))), flush=True)


def run_ranks(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Start all ranks and wait for their ends."""
    with tempfile.TemporaryDirectory() as directory:
        outputs = [Path(directory, str(rank)) for rank in range(len(request["ranks"]))]
        for output in outputs:
            output.touch()  # a rank may be killed before it opens its own
        pids = [start(rank, request, output) for rank, output in zip(request["ranks"], outputs, strict=True)]
        codes: dict[int, int] = {}
        while len(codes) < len(pids):
            pid, status = os.wait()
            codes[pid] = os.waitstatus_to_exitcode(status)
            if codes[pid]:
                for other in set(pids) - codes.keys():
                    os.kill(other, signal.SIGKILL)
        return [{"code": codes[pid], "output": output.read_text()} for pid, output in zip(pids, outputs, strict=True)]


def start(rank: dict[str, Any], request: dict[str, Any], output: Path) -> int:
    """Start one rank; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for descriptor in (1, 2):
            os.dup2(os.open(output, os.O_WRONLY | os.O_APPEND), descriptor)
        enter(rank["pid"])
        os.environ.clear()
        os.environ.update(rank["env"])
        code = be_rank(Path(request["run"]), request["unreachable_s"])
    except Exception:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def enter(pid: int) -> None:
    """Join the namespaces of process `pid`."""
    descriptors = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in NAMESPACES]
    for descriptor in descriptors:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0):
            raise OSError(ctypes.get_errno(), "setns")


def be_rank(run: Path, unreachable_s: float) -> int:
    """Connect to the others, gather ranks and print them with gloo's interface; return the exit code."""
    rendezvous.UNREACHABLE_S = unreachable_s
    begin = torch.distributed.init_process_group
    chosen = []

    def init_process_group(**options: Any) -> None:
        chosen.append(os.environ.get("GLOO_SOCKET_IFNAME"))
        begin(**options)

    torch.distributed.init_process_group = init_process_group  # type: ignore[assignment]
    try:
        process = ProcessInfo.from_env(current_environment())
        with connected(process, RunDirectory(run), torch.device("cpu"), START_S) as world:
            ranks = [int(rank) for (rank,) in world.gather_numbers([float(world.rank)])]
            print(json.dumps({"ranks": ranks, "interface": chosen[0]}), flush=True)
    except HpcYoloError as error:
        print(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    main()
