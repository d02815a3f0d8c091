"""Measure the cost of resilience: time to stop after SIGTERM, time to resume, agreement in each step.

Saves during training are in `hpc-yolo bench checkpoint`.

python benchmarks/survival.py stop                       # SIGTERM to the last synced byte, two ranks
python benchmarks/survival.py start                      # process start to the first new step, two ranks, in parts
python benchmarks/survival.py overhead                   # stop agreement, journal and watchdog, two ranks, in each step
"""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.distributed import StepRequest, StopAgreement, connected
from hpc_yolo.launch.prepare import prepare_run
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded, AttemptStarted, CheckpointSaved, StepLogged
from hpc_yolo.runs.journal import JournalWriter, read_events
from hpc_yolo.spec.checkpoint import CheckpointSpec
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.training.watchdog import Watchdog

BATCH, IMGSZ = 8, 320
STEPS_BEFORE_STOP = 6
TRIES = 5
RANKS = 2
TIMEOUT_S = 120.0
OVERHEAD_STEPS = 300

# One rank; prints the times at which imports, rendezvous and loading are done.
RANK = """
import sys, time
from pathlib import Path
from hpc_yolo.training import attempt
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.load import load_spec
print("imported", time.time(), flush=True)
build = attempt.build
def timed_build(*arguments):
    print("met", time.time(), flush=True)
    context = build(*arguments)
    print("loaded", time.time(), flush=True)
    return context
attempt.build = timed_build
run = RunDirectory(Path(sys.argv[1]))
attempt.run_task(run, load_spec(run.spec))
"""


class TwoRanks:
    """A run of two ranks on this machine that can be started repeatedly."""

    def __init__(self, directory: Path, model: str) -> None:
        data = write_shapes_dataset(directory / "set", num_train=24, num_val=2, image_size=(IMGSZ, IMGSZ))
        train = TrainSpec(epochs=1000, batch=BATCH, imgsz=IMGSZ, workers=0, val_every=1000)
        spec = Spec(
            name=model,
            model=model,
            data=DataSpec(path=str(data)),
            output=str(directory),
            cluster=ClusterSpec(gpus_per_node=0),
            train=train,
            checkpoint=CheckpointSpec(every_s=None, every_epochs=1000),
        )
        self.run, self.number = RunDirectory(directory / model), 0
        prepare_run(self.run, spec)

    def start(self, program: str = RANK) -> list[subprocess.Popen[str]]:
        """Start the next attempt; return its ranks."""
        self.number += 1
        base = {"SUBMITIT_LOCAL_JOB_ID": f"{os.getpid()}.{self.number}", "SUBMITIT_LOCAL_NTASKS": str(RANKS)}
        ranks = ({"SUBMITIT_LOCAL_GLOBALID": str(rank), "SUBMITIT_LOCAL_LOCALID": str(rank)} for rank in range(RANKS))
        command = [sys.executable, "-c", program, str(self.run.path)]
        return [
            subprocess.Popen(command, env={**os.environ, **base, **rank}, stdout=subprocess.PIPE, text=True)
            for rank in ranks
        ]

    def events(self, attempt: int, kind: type) -> list[Any]:
        """Return the events of one kind of an attempt."""
        found = read_events(self.run.journal)
        return [event for event in found if event.attempt == attempt and isinstance(event, kind)]

    def wait_for_steps(self, attempt: int, number: int) -> list[StepLogged]:
        """Return the logged steps of an attempt once there are `number` of them."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while len(steps := self.events(attempt, StepLogged)) < number:
            assert time.monotonic() < deadline_s, "no progress"
            time.sleep(0.02)
        return steps

    def stop(self, ranks: list[subprocess.Popen[str]]) -> tuple[float, list[str]]:
        """Send SIGTERM to all ranks; return the time of the signal and the output of each rank once all have exited."""
        signal_s = time.time()
        for rank in ranks:
            rank.send_signal(signal.SIGTERM)
        return signal_s, [rank.communicate(timeout=TIMEOUT_S)[0] for rank in ranks]


def stop() -> None:
    """Print the seconds from SIGTERM to the last synced byte, and the median step."""
    for model in ("yolov5n", "yolov5s"):
        with tempfile.TemporaryDirectory(dir=".") as directory:
            runs, taken, steps = TwoRanks(Path(directory).resolve(), model), [], []
            for attempt in range(1, TRIES + 1):
                ranks = runs.start()
                logged = runs.wait_for_steps(attempt, STEPS_BEFORE_STOP)
                signal_s, _ = runs.stop(ranks)
                taken.append(runs.events(attempt, CheckpointSaved)[-1].time - signal_s)
                steps += [later.time - sooner.time for sooner, later in itertools.pairwise(logged[1:])]
        shown = " ".join(f"{seconds:.2f}" for seconds in taken)
        print(f"{model}: SIGTERM to the last synced byte {shown} s; a step is {statistics.median(steps):.2f} s")


def start() -> None:
    """Print the seconds from the start of two processes to the first step of a resumed attempt, by phase."""
    with tempfile.TemporaryDirectory(dir=".") as directory:
        runs = TwoRanks(Path(directory).resolve(), "yolov5n")
        for attempt in range(1, TRIES + 1):
            began_s = time.time()
            ranks = runs.start()
            first = runs.wait_for_steps(attempt, 1)[0]
            _, (output, *_) = runs.stop(ranks)
            printed = {line.split()[0]: float(line.split()[1]) for line in output.splitlines() if line.count(" ") == 1}
            ready_s = runs.events(attempt, AttemptStarted)[0].time
            marks = [began_s, printed["imported"], printed["met"], printed["loaded"], ready_s, first.time]
            phases = [later - sooner for sooner, later in itertools.pairwise(marks)]
            names = ("import", "rendezvous", "load", "watchdog and journal", "first step")
            shown = ", ".join(f"{name} {seconds:.2f}" for name, seconds in zip(names, phases, strict=True))
            print(f"attempt {attempt}: {first.time - began_s:.2f} s: {shown}")


def overhead() -> None:
    """Print the microseconds per step of stop agreement, journal and watchdog, with both ranks running."""
    with tempfile.TemporaryDirectory(dir=".") as directory:
        runs = TwoRanks(Path(directory).resolve(), "yolov5n")
        program = "import sys; sys.argv[0] = 'x'\nfrom survival import overhead_of_rank\noverhead_of_rank(sys.argv[1])"
        os.environ["PYTHONPATH"] = str(Path(__file__).parent)
        for rank in runs.start(program):
            print(rank.communicate(timeout=TIMEOUT_S)[0], end="")


def overhead_of_rank(directory: str) -> None:
    """Run one rank of `overhead`."""
    process, run = ProcessInfo.from_env(current_environment()), RunDirectory(Path(directory))
    with connected(process, run, torch.device("cpu"), 60) as world:
        agreement, journal = StopAgreement(world), JournalWriter(run.path / f"journal-{world.rank}", 1)
        watchdog = Watchdog(world, run, 1)
        event = AttemptEnded(outcome=AttemptEnded.FINISHED, epoch=0, step=1)
        columns: dict[str, list[float]] = {"agreement": [], "journal": [], "watchdog": []}
        with watchdog:
            for step in range(OVERHEAD_STEPS):
                time.sleep(0.01)
                columns["agreement"].append(timed(lambda: agreement.ask(StepRequest())))
                columns["journal"].append(timed(lambda: journal.write(event)))
                columns["watchdog"].append(timed(partial(watchdog.heartbeat, "step", step)))
        agreement.settle()
    shown = ", ".join(f"{name} {statistics.median(ms) * 1000:.0f} us" for name, ms in columns.items())
    print(f"rank {process.rank}: {shown} (medians of {OVERHEAD_STEPS} steps)")


def timed(step: Callable[[], object]) -> float:
    """Return the milliseconds that `step` takes."""
    started_s = time.perf_counter()
    step()
    return (time.perf_counter() - started_s) * 1000


if __name__ == "__main__":
    {"stop": stop, "start": start, "overhead": overhead}[sys.argv[1]]()
