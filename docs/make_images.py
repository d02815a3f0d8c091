"""Make the images of the README: the status screen over real jobs, and detections on images not seen in training.

    PYTHONPATH=tests/helpers python docs/make_images.py screen RUN       # docs/status.svg; root, Debian, a few minutes
    PYTHONPATH=tests/helpers python docs/make_images.py detections RUN   # docs/detections.jpg
    PYTHONPATH=tests/helpers python docs/make_images.py report RUN       # docs/report.jpg; needs chromium

RUN is a finished run of `make demo`, such as runs/quickstart: its model draws the detections, and the runs of the
screen begin with its weights.

`screen` starts the private Slurm cluster of the tests (two nodes, whose GPUs are CPUs) and submits six runs to it. One
is preempted and resumes, one waits in the queue, one is cancelled, the setup of one fails, two finish. The image is
what `hpc-yolo status` draws in a terminal, converted to SVG by rich.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text
from slurm_cluster import SlurmCluster
from tmux_terminal import Terminal
from waiting import wait_until

DOCS = Path(__file__).resolve().parent
COLUMNS, ROWS = 164, 16
TWO_NODES = {"nodes": 2, "tasks_per_node": 2, "gpus_per_node": 2}
TRAIN = {"epochs": 60, "batch": 16, "imgsz": 160, "workers": 0, "val_every": 1, "device": "cpu"}
SPECS: dict[str, dict[str, Any]] = {
    "two-nodes": {"cluster": {**TWO_NODES, "partition": "preempt", "time": "00:50:00"}},
    "yolov5s": {"model": "yolov5s", "cluster": {**TWO_NODES, "partition": "preempt", "time": "00:50:00"}},
    "baseline": {"train": {"epochs": 5}},
    "higher-lr": {"train": {"epochs": 5, "hyp_overrides": {"lr0": 0.02}}},
    "with-modules": {"cluster": {"setup": ["module load cuda/12.4"]}},
    "eight-gpus": {"cluster": {"nodes": 2, "gpus_per_node": 4, "partition": "preempt"}},
}


def hpc_yolo(*arguments: object, check: bool = True) -> str:
    """Run a command; return what it prints."""
    command = [sys.executable, "-m", "hpc_yolo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=check).stdout


def state_of(runs: Path, name: str) -> dict[str, Any]:
    """Return what `status --json` reports of a run; {} before it is submitted."""
    rows = json.loads(hpc_yolo("status", "--root", runs, "--json"))
    return next((row for row in rows if row["name"] == name), {})


@contextmanager
def private_cluster() -> Iterator[SlurmCluster]:
    """Start a cluster and make this process a client of it."""
    cluster = SlurmCluster()
    try:
        cluster.start()
        os.environ.update(cluster.environment)
        yield cluster
    finally:
        cluster.stop()


def submit(directory: Path, weights: Path, name: str) -> None:
    """Submit one of `SPECS`."""
    data = directory / "shapes" / "dataset.yaml"
    spec = {"name": name, "data": str(data), "output": str(directory / "runs"), **SPECS[name]}
    spec |= {} if "model" in spec else {"model": "yolov5n", "weights": str(weights)}
    spec["train"] = TRAIN | spec.get("train", {})
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(spec))
    hpc_yolo("submit", path)


def make_screen(run: Path) -> None:
    """Write docs/status.svg."""
    with tempfile.TemporaryDirectory(prefix="hpc-yolo-docs-") as path:
        directory = Path(path)
        os.environ["XDG_STATE_HOME"] = str(directory / "state")
        runs = directory / "runs"
        hpc_yolo("data", "synth", directory / "shapes")
        weights = run.resolve() / "checkpoints" / "best.safetensors"
        with private_cluster() as cluster:
            for name in ("baseline", "higher-lr", "with-modules"):
                submit(directory, weights, name)
            wait_for(runs, {"baseline": "done", "higher-lr": "done", "with-modules": "failed"})
            submit(directory, weights, "two-nodes")
            wait_until(lambda: (state_of(runs, "two-nodes").get("epoch") or 0) >= 4, "four epochs")
            preempting = cluster.submit("#!/bin/sh\nsleep 5\n", "--partition=high", "--nodes=2", "--exclusive")
            cluster.wait_for_state(preempting, "COMPLETED")
            wait_until(lambda: (state_of(runs, "two-nodes").get("epoch") or 0) >= 12, "eight more epochs")
            for name in ("yolov5s", "eight-gpus"):
                submit(directory, weights, name)
            hpc_yolo("cancel", "eight-gpus", "--yes")
            wait_for(runs, {"two-nodes": "running", "yolov5s": "queued", "eight-gpus": "cancelled"})
            (DOCS / "status.svg").write_text(screen_svg(directory, runs))
            cluster.cancel_all()
            print(hpc_yolo("follow", runs / "two-nodes", check=False))


def wait_for(runs: Path, states: dict[str, str]) -> None:
    """Wait until each run is in its state."""
    for run, state in states.items():
        wait_until(lambda: state_of(runs, run).get("state") == state, f"{run} to be {state}")  # noqa: B023


def screen_svg(directory: Path, runs: Path) -> str:
    """Return `hpc-yolo status` as it stands, as SVG."""
    terminal = Terminal(directory, COLUMNS, ROWS)
    try:
        terminal.wait_for("$")
        terminal.run("env", "-u", "NO_COLOR", "TERM=screen-256color", "hpc-yolo", "status", "--root", str(runs))
        terminal.wait_for("two-nodes", "queued", "? help", without="being read")
        lines = terminal.tmux("capture-pane", "-e", "-p").splitlines()
    finally:
        terminal.close()
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True)
    svg_format = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)  # fetches no fonts
    return console.export_svg(
        title="hpc-yolo status", code_format=svg_format.replace("Fira Code, ", ""), unique_id="status"
    )


def make_detections(run: Path) -> None:
    """Write docs/detections.jpg: six images that the run has not seen, with the boxes that `predict` draws."""
    with tempfile.TemporaryDirectory() as path:
        directory = Path(path)
        hpc_yolo("data", "synth", directory / "shapes", "--seed", 7)
        hpc_yolo("predict", directory / "shapes" / "images" / "val", "--weights", run, "--project", directory)
        drawn = sorted(directory.glob("exp/*.jpg"))[:6]
        images = [image for image in map(cv2.imread, map(str, drawn)) if image is not None]
    rows = [np.hstack(images[start : start + 3]) for start in (0, 3)]
    cv2.imwrite(str(DOCS / "detections.jpg"), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 88])


def make_report(run: Path) -> None:
    """Write docs/report.jpg: the head of the report of a run, as chromium draws it."""
    with tempfile.TemporaryDirectory() as path:
        page, drawn = Path(path, "report.html"), Path(path, "report.png")
        hpc_yolo("report", run, "--output", page)
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1200,900", f"--screenshot={drawn}"]
        subprocess.run(["chromium", *options, page.as_uri()], check=True, capture_output=True)
        image = cv2.imread(str(drawn))
        assert image is not None
        cv2.imwrite(str(DOCS / "report.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["screen", run_directory]:
            make_screen(Path(run_directory))
        case ["report", run_directory]:
            make_report(Path(run_directory))
        case ["detections", run_directory]:
            make_detections(Path(run_directory))
        case _:
            sys.exit(__doc__)
