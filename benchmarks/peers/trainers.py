"""Trainers from PyPI and this package as black boxes: how each is installed, and its command lines from its --help."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Task:
    """What a trainer is to do.

    Attributes:
        data: dataset YAML.
        model: YAML of layers, or name of a model, as the trainer takes it.
        output: directory for what it writes.
        imgsz: side in pixels.
        epochs: of a training.
        workers: loader processes.
        in_memory: keep decoded images in memory.
        weights: of a validation.
        batch: images of a step.
    """

    data: Path
    model: str
    output: Path
    imgsz: int = 640
    epochs: int = 1
    workers: int = 1
    in_memory: bool = False
    weights: Path | None = None
    batch: int = 16


@dataclass(frozen=True)
class Trainer:
    """A trainer: its packages, models and command lines.

    Attributes:
        packages: what pip installs; () for this package, which is installed where this runs.
        tiny: model with which a loader is measured, since it takes little time itself.
        small: model whose step and mAP are measured, with {size} for n, s, m …
        train, validate: return the arguments after the program.
        program: name in the environment's bin.
        weights: return the file of a finished training.
        package: what is installed, and the name of its environment; the name of the trainer by default.
    """

    program: str
    packages: tuple[str, ...]
    tiny: str
    small: str
    train: Callable[[Task], list[str]]
    validate: Callable[[Task], list[str]]
    weights: Callable[[Path], Path]
    package: str = ""


def _ours_train(task: Task) -> list[str]:
    spec = task.output.with_suffix(".yaml")
    spec.parent.mkdir(parents=True, exist_ok=True)
    spec.write_text(
        f"name: {task.output.name}\nmodel: {task.model}\ndata: {task.data}\noutput: {task.output.parent}\n"
        f"cluster: {{executor: local, gpus_per_node: 0}}\n"
        f"train: {{epochs: {task.epochs}, batch: {task.batch}, imgsz: {task.imgsz}, workers: {task.workers}, "
        f"device: cpu, cache: {'ram' if task.in_memory else 'none'}, autoanchor: false, val_every: 0}}\n"
    )
    return ["submit", str(spec)]


def _ours_validate(task: Task) -> list[str]:
    return [
        *("val", "--weights", str(task.weights), "--data", str(task.data), "--img", str(task.imgsz)),
        *("--batch-size", str(task.batch), "--workers", str(task.workers), "--device", "cpu"),
        *("--project", str(task.output.parent), "--name", task.output.name, "--exist-ok"),
    ]


def _yolov5_train(task: Task) -> list[str]:
    return [
        *("train", "--data", str(task.data), "--cfg", task.model, "--weights", "", "--img", str(task.imgsz)),
        *(
            "--epochs",
            str(task.epochs),
            "--batch-size",
            str(task.batch),
            "--workers",
            str(task.workers),
            "--device",
            "cpu",
        ),
        *("--noplots", "--noautoanchor", *(["--cache", "ram"] if task.in_memory else [])),
        *("--project", str(task.output.parent), "--name", task.output.name, "--exist-ok"),
    ]


def _yolov5_validate(task: Task) -> list[str]:
    return [
        *("val", f"--data={task.data}", f"--weights={task.weights}", f"--img={task.imgsz}", f"--batch={task.batch}"),
        *(f"--workers={task.workers}", "--device=cpu", f"--project={task.output.parent}", f"--name={task.output.name}"),
        "--exist_ok=True",
    ]


def _ultralytics(mode: str, task: Task) -> list[str]:
    return [
        *("detect", mode, f"data={task.data}", f"imgsz={task.imgsz}", f"batch={task.batch}", f"workers={task.workers}"),
        *("device=cpu", "plots=False", f"project={task.output.parent}", f"name={task.output.name}", "exist_ok=True"),
    ]


def _ultralytics_train(task: Task) -> list[str]:
    cache = "ram" if task.in_memory else "False"
    return [
        *(*_ultralytics("train", task), f"model={task.model}", "pretrained=False", f"epochs={task.epochs}"),
        *("val=False", "close_mosaic=0", f"cache={cache}"),
    ]


def _libreyolo_train(task: Task) -> list[str]:
    return [
        *("train", "--data", str(task.data), "--model", task.model, "--no-pretrained", "--epochs", str(task.epochs)),
        *("--batch", str(task.batch), "--imgsz", str(task.imgsz), "--workers", str(task.workers), "--device", "cpu"),
        *("--no-val", "--no-amp", "--mixup", "0", "--degrees", "0", "--shear", "0", "--no-aug-epochs", "0"),
        *("--warmup-epochs", "0", "--cache", "ram" if task.in_memory else "false"),
        *("--project", str(task.output.parent), "--name", task.output.name, "--exist-ok"),
    ]


def _libreyolo_validate(task: Task) -> list[str]:
    return [
        *("val", "--data", str(task.data), "--model", str(task.weights), "--batch", str(task.batch)),
        *("--imgsz", str(task.imgsz), "--workers", str(task.workers), "--device", "cpu"),
    ]


TRAINERS = {
    "hpc-yolo": Trainer(
        "hpc-yolo",
        (),
        "TINY",
        "yolov5{size}",
        _ours_train,
        _ours_validate,
        lambda output: output,
    ),
    "yolov5": Trainer(
        "yolov5",
        ("yolov5==7.0.14", "torch==2.5.1", "torchvision==0.20.1", "numpy<2", "setuptools<81"),
        "TINY",
        "yolov5{size}.yaml",
        _yolov5_train,
        _yolov5_validate,
        lambda output: output / "weights" / "last.pt",
    ),
    "ultralytics": Trainer(
        "yolo",
        ("ultralytics",),
        "yolov8n.yaml",
        "yolov8{size}.yaml",
        _ultralytics_train,
        lambda task: [*_ultralytics("val", task), f"model={task.weights}"],
        lambda output: output / "weights" / "last.pt",
    ),
    "libreyolo": Trainer(
        "libreyolo",
        ("libreyolo",),
        "yolox-n",
        "yolox-{size}",
        _libreyolo_train,
        _libreyolo_validate,
        lambda output: output / "weights" / "last.pt",
    ),
}
# The same with models whose heads have no anchors, on the backbone of v5n.
TRAINERS["hpc-yolo-af"] = replace(TRAINERS["hpc-yolo"], small="yolov5{size}-af", package="hpc-yolo")
TRAINERS["ultralytics-v5u"] = replace(TRAINERS["ultralytics"], small="yolov5{size}.yaml", package="ultralytics")


def program_of(name: str, root: Path) -> Path:
    """Return the program of a trainer, whose environment is installed below `root` if it is not there yet."""
    trainer = TRAINERS[name]
    if not trainer.packages:
        return Path(sys.executable).parent / trainer.program
    environment = root / (trainer.package or name)
    program = environment / "bin" / trainer.program
    if not program.exists():
        print(f"installing {' '.join(trainer.packages)} into {environment}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *trainer.packages], check=True)
    return program


def versions(name: str, root: Path) -> str:
    """Return the versions of a trainer and of torch in its environment."""
    trainer = TRAINERS[name]
    package = trainer.package or name
    python = root / package / "bin" / "python" if trainer.packages else Path(sys.executable)
    script = f"from importlib.metadata import version as v; print('{name}', v('{package}'), 'torch', v('torch'))"
    return subprocess.run([str(python), "-c", script], check=True, capture_output=True, text=True).stdout.strip()
