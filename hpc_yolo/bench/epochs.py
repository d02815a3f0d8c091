"""Benchmark `epochs`: the later epochs of a run that evaluates and saves, over those of one that does neither.

Something that an evaluation or a save leaves behind in the process of a task would slow down all later steps.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from hpc_yolo.bench.records import BenchResult, Timing
from hpc_yolo.bench.rounds import Rounds
from hpc_yolo.cluster.process import current_environment
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import EpochEnded
from hpc_yolo.runs.journal import read_events

NUM_EPOCHS = 5
NEVER_S = 10**6
PLAIN = "neither"
CADENCES: dict[str, tuple[int, int]] = {  # name -> (train.val_every, checkpoint.every_s)
    PLAIN: (0, NEVER_S),
    "saves every second": (0, 1),
    "evaluations": (1, NEVER_S),
    "evaluations, saves every second": (1, 1),
}


def bench_epochs(rounds: Rounds) -> list[BenchResult]:
    """Return wall times of the training steps of epochs 2 to 5 of yolov5n, one rank, 16 images of 160 px.

    Every run is a process of its own; one more at the end of each round repeats the reference. A quick measurement is
    one round: most of its time is the start of processes.
    """
    num_rounds = rounds.amount(rounds.number, 1)
    seconds: dict[str, list[float]] = {name: [] for name in [*CADENCES, "again"]}
    num_images = rounds.amount(320, 96)
    with tempfile.TemporaryDirectory() as written:
        directory = Path(written)
        data = write_shapes_dataset(directory / "set", num_train=num_images, num_val=32)
        for number in range(num_rounds):
            for name in seconds:
                cadence = CADENCES.get(name, CADENCES[PLAIN])
                seconds[name].append(_later_epochs_s(directory, data, f"{number}-{len(seconds[name])}-{name}", cadence))
            rounds.on_round("epochs", number + 1, num_rounds)
    amount = num_images * (NUM_EPOCHS - 1)
    return [_result(seconds, amount)]


def _result(seconds: Mapping[str, list[float]], amount: int) -> BenchResult:
    timings = [
        Timing(name=name, amount=amount, unit="image", seconds=seconds[name]) for name in CADENCES if name != PLAIN
    ]
    return BenchResult(
        bench="epochs",
        clock="wall",
        reference=PLAIN,
        reference_s=seconds[PLAIN],
        again_s=seconds["again"],
        timings=timings,
    )


def _later_epochs_s(directory: Path, data: Path, name: str, cadence: tuple[int, int]) -> float:
    """Train a run and return the seconds of the steps of all its epochs but the first."""
    val_every, every_s = cadence
    run = RunDirectory(directory / "runs" / name.replace(" ", "-").replace(",", ""))
    spec = directory / "spec.yaml"
    fields = {
        "name": run.name,
        "model": "yolov5n",
        "data": str(data),
        "output": str(run.path.parent),
        "cluster": {"executor": "local", "gpus_per_node": 0, "tasks_per_node": 1},
        "train": {
            **{"epochs": NUM_EPOCHS, "batch": 16, "imgsz": 160, "workers": 1, "device": "cpu"},
            **{"val_every": val_every, "autoanchor": False},
        },
        "checkpoint": {"every_s": every_s},
    }
    spec.write_text(yaml.safe_dump(fields))
    command = [sys.executable, "-m", "hpc_yolo", "submit", str(spec), "--wait"]
    environ = {**current_environment(), "XDG_STATE_HOME": str(directory)}
    subprocess.run(command, env=environ, check=True, capture_output=True)
    ended = [event for event in read_events(run.journal) if isinstance(event, EpochEnded)]
    return sum(event.seconds for event in ended[1:])
