"""Read a tracked run back by what belongs to the tracker: (step, loss) pairs in its own order."""

from __future__ import annotations

import csv
import importlib
import os
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from growing_journal import LAST_STEP

from hpc_yolo.runs.directory import RunDirectory

Series = list[tuple[int, float]]
LOSS = "loss/box"
BLOCK_BYTES, FILE_HEADER_BYTES, HEADER = 32768, 7, struct.Struct("<IHB")


def environment_of_trackers(directory: Path) -> dict[str, str]:
    """Return an environment in which trackers keep everything in `directory`, and have no key."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_"))}
    return kept | {
        "HOME": str(directory),
        "MLFLOW_TRACKING_URI": f"sqlite:///{directory}/mlflow.db",
        "TRACKIO_DIR": str(directory / "trackio"),
    }


def read_csv(run: RunDirectory, _directory: Path) -> Series:
    """Read the CSV file of a run."""
    (path,) = run.tracking.glob("*.csv")
    with path.open(newline="") as file:
        return [(int(line["step"]), float(line[LOSS])) for line in csv.DictReader(file)]


def read_event_file(run: RunDirectory, _directory: Path) -> Series:
    """Read the event file by TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run.tracking / "tensorboard"), size_guidance={"scalars": 0})
    read.Reload()
    return [(event.step, event.value) for event in read.Scalars(LOSS)]


def read_mlflow(_run: RunDirectory, directory: Path) -> Series:
    """Read the only run in MLflow's database by its client, and check the status of the run."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{directory}/mlflow.db")
    experiment = client.get_experiment_by_name("hpc-yolo")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    series = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, LOSS)]
    assert run.info.status == ("FINISHED" if series[-1][0] == LAST_STEP else "RUNNING")
    return series


def read_trackio(_run: RunDirectory, directory: Path) -> Series:
    """Read the only run in Trackio's database by SQL, as it is read in another process."""
    (path,) = (directory / "trackio").glob("*.db")
    with sqlite3.connect(path) as database:
        rows = database.execute(f"SELECT step, json_extract(metrics, '$.\"{LOSS}\"') FROM metrics ORDER BY id")
        return list(rows)


def read_wandb(run: RunDirectory, _directory: Path) -> Series:
    """Read the offline directory to which the link leads, by the messages of wandb."""
    (link,) = run.tracking.glob("wandb/*/offline-run")
    (path,) = link.glob("*.wandb")
    messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    series: Series = []
    for number, content in enumerate(_records(path.read_bytes())):
        record = messages.Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == "history":
            values = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            assert int(values["_step"]) == len(series), number
            series.append((int(values["step"]), float(values[LOSS])))
    return series


def _records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a .wandb file: in blocks, with a header for each part (whole, first, middle, last)."""
    offset, parts = FILE_HEADER_BYTES, b""
    while offset + HEADER.size <= len(content):
        left = BLOCK_BYTES - offset % BLOCK_BYTES
        if left < HEADER.size:
            offset += left
            continue
        _checksum, length, kind = HEADER.unpack_from(content, offset)
        parts += content[offset + HEADER.size : offset + HEADER.size + length]
        offset += HEADER.size + length
        if kind in (1, 4):
            yield parts
            parts = b""


READERS = {
    "csv": read_csv,
    "mlflow": read_mlflow,
    "tensorboard": read_event_file,
    "trackio": read_trackio,
    "wandb": read_wandb,
}
