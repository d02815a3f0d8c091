"""Compare this package with trainers from PyPI, as black boxes: command lines, on the same images.

    python benchmarks/peers/run.py loader               training images a CPU second, from files and from memory
    python benchmarks/peers/run.py validation           validation images a CPU second, from 640 x 480 and 1920 x 1080
    python benchmarks/peers/run.py step                 CPU time of a training epoch, an image
    python benchmarks/peers/run.py map                  mAP after 60 epochs on drawn shapes
    python benchmarks/peers/run.py loader --trainers hpc-yolo,yolov5 --rounds 3
    python benchmarks/peers/run.py --remove             delete the environments

Each trainer is installed into an environment of its own below ~/.cache/hpc-yolo-peers. Its source is not read: what is
known of it is its --help. Processor time is counted, as the difference of a longer and a shorter command: start and end
cancel out. A loader has one worker, whose time counts. The trainers of a round run at once, so that other load on the
machine affects each alike; with --in-turn one after the other, for a machine without other load: cores that share
caches or are threads of one core slow each other down, the trainer that ends first for all of its time.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib
from processes import CommandTimes, run_timed
from trainers import TRAINERS, Task, program_of, versions

from hpc_yolo.core.package_data import resource_directory
from hpc_yolo.data.synth import write_shapes_dataset

ROOT = Path.home() / ".cache" / "hpc-yolo-peers"
SIZES = {"640 x 480": (640, 480), "1920 x 1080": (1920, 1080)}
IMAGES, FEW_EPOCHS, MANY_EPOCHS = 64, 1, 3
EVALUATED_IMAGES = 2  # some trainers evaluate after every epoch whatever is asked
FEW_IMAGES, MANY_IMAGES, TRAINED_IMAGES = 32, 160, 16
# Our YAML of layers in the form that other trainers take too (hpc_yolo/models/config.py), with few channels.
IN_COMMON_FORM = {
    "width_multiple: 0.25": "width_multiple: 0.02",
    "Upsample, []": "nn.Upsample, [None, 2, nearest]",
    "Concat, []": "Concat, [1]",
    "Detect, []": "Detect, [nc, anchors]",
}
MAP_EPOCHS, MAP_IMGSZ = 60, 160
ENVIRON = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "WANDB_MODE": "disabled", "CUDA_VISIBLE_DEVICES": ""}


class Comparison:
    """Runs the commands of trainers on the same data, in a directory of temporary files."""

    def __init__(self, directory: Path, names: list[str], *, batch: int, size: str, in_turn: bool) -> None:
        self.directory, self.names, self.batch, self.size = directory, names, batch, size
        self.num_at_once = 1 if in_turn else len(names)
        self.programs = {name: program_of(name, ROOT) for name in names}
        self.numbers = itertools.count(1)
        self.tiny = directory / "tiny.yaml"
        self._add_font()
        layers = (resource_directory("configs") / "models" / "yolov5n.yaml").read_text()
        for ours, common in IN_COMMON_FORM.items():
            layers = layers.replace(ours, common)
        self.tiny.write_text("nc: 4\n" + layers)

    def _add_font(self) -> None:
        """Put a font where trainers would download one to; machines of clusters reach no other network."""
        font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
        for directory in (self.directory / "config", self.directory / "config" / "Ultralytics"):
            directory.mkdir(parents=True, exist_ok=True)
            shutil.copy(font, directory / "Arial.ttf")

    def drawn(self, name: str, num_train: int, num_val: int, size: tuple[int, int]) -> Path:
        """Return the YAML of drawn images of `size`."""
        directory = self.directory / name
        path = write_shapes_dataset(directory, num_train=num_train, num_val=num_val, image_size=size)
        text = path.read_text()
        return path if f"path: {directory}" in text else self._absolute(path, text)

    def _absolute(self, path: Path, text: str) -> Path:
        lines = [line for line in text.splitlines() if not line.startswith("path:")]
        path.write_text("\n".join([f"path: {path.parent}", *lines]) + "\n")
        return path

    def task(self, name: str, data: Path, *, tiny: bool = True, **options: Any) -> Task:
        """Return a task of the trainer `name` with a fresh directory for its output."""
        trainer = TRAINERS[name]
        model = trainer.tiny if tiny else trainer.small.format(size=self.size)
        output = self.directory / "runs" / f"{name}-{next(self.numbers)}"
        return Task(data, str(self.tiny) if model == "TINY" else model, output, batch=self.batch, **options)

    def train(self, name: str, task: Task) -> CommandTimes:
        """Train and return the times of the command."""
        return self._run(name, TRAINERS[name].train(task), task)

    def validate(self, name: str, task: Task) -> CommandTimes:
        """Validate and return the times of the command."""
        return self._run(name, TRAINERS[name].validate(task), task)

    def _run(self, name: str, arguments: list[str], task: Task) -> CommandTimes:
        task.output.parent.mkdir(parents=True, exist_ok=True)
        command = [str(self.programs[name]), *arguments]
        config = str(self.directory / "config")
        environ = ENVIRON | {"XDG_STATE_HOME": str(self.directory / "state")}
        environ |= {"YOLOV5_CONFIG_DIR": config, "YOLO_CONFIG_DIR": config}
        return run_timed(command, self.directory, self.directory / f"{task.output.name}.log", environ)

    def log(self, task: Task) -> str:
        """Return the output of the command of `task`."""
        return (self.directory / f"{task.output.name}.log").read_text(errors="replace")


def loader(comparison: Comparison, rounds: int) -> None:
    """Print training images a CPU second of the loader, with mosaics of 640 px."""
    data = comparison.drawn("small", IMAGES, EVALUATED_IMAGES, SIZES["640 x 480"])
    for in_memory in (False, True):

        def images_per_s(name: str, in_memory: bool = in_memory) -> float:
            few, many = (
                comparison.train(name, comparison.task(name, data, epochs=epochs, in_memory=in_memory)).loader_s
                for epochs in (FEW_EPOCHS, MANY_EPOCHS)
            )
            return IMAGES * (MANY_EPOCHS - FEW_EPOCHS) / (many - few)

        print_rates(comparison, rounds, f"training, {'memory' if in_memory else 'files'}", images_per_s)


def validation(comparison: Comparison, rounds: int) -> None:
    """Print validation images a CPU second of the loader, at 640 px."""
    for size, pixels in SIZES.items():
        sets = [
            comparison.drawn(f"{pixels[0]}-{number}", TRAINED_IMAGES, number, pixels)
            for number in (FEW_IMAGES, MANY_IMAGES)
        ]
        weights = {}
        for name in comparison.names:
            task = comparison.task(name, sets[0], imgsz=64)
            comparison.train(name, task)
            weights[name] = TRAINERS[name].weights(task.output)

        def images_per_s(name: str, sets: list[Path] = sets, weights: dict[str, Path] = weights) -> float:
            few, many = (
                comparison.validate(name, comparison.task(name, data, weights=weights[name])).loader_s for data in sets
            )
            return (MANY_IMAGES - FEW_IMAGES) / (many - few)

        print_rates(comparison, rounds, f"validation, {size}", images_per_s)


def step(comparison: Comparison, rounds: int) -> None:
    """Print images a CPU second of the training alone, the processes below it left out: 320 px."""
    data = comparison.drawn("small", IMAGES, EVALUATED_IMAGES, SIZES["640 x 480"])

    def images_per_s(name: str) -> float:
        few, many = (
            comparison.train(name, comparison.task(name, data, tiny=False, imgsz=320, epochs=epochs)).main_s
            for epochs in (1, 3)
        )
        return 2 * IMAGES / (many - few)

    print_rates(comparison, rounds, "training, 320 px, without its loader", images_per_s)


def mean_ap(comparison: Comparison, _rounds: int) -> None:
    """Train from scratch on drawn shapes with each trainer, and print what its own validation prints."""
    data = comparison.directory / "shapes"
    path = write_shapes_dataset(data)
    comparison._absolute(path, path.read_text())
    for name in comparison.names:
        task = comparison.task(name, path, tiny=False, imgsz=MAP_IMGSZ, epochs=MAP_EPOCHS)
        times = comparison.train(name, task)
        checked = comparison.task(name, path, imgsz=MAP_IMGSZ, weights=TRAINERS[name].weights(task.output))
        comparison.validate(name, checked)
        lines = [line for line in comparison.log(checked).splitlines() if " all " in f" {line} " or "mAP" in line]
        print(f"{name:12} {times.main_s + times.loader_s:6.0f} s of CPU time: {' | '.join(lines[-2:])}", flush=True)


def print_rates(comparison: Comparison, rounds: int, what: str, images_per_s: Callable[[str], float]) -> None:
    """Print the median of each trainer over `rounds`; one that fails is left out."""
    found: dict[str, list[float]] = {name: [] for name in comparison.names}

    def measure(name: str) -> None:
        try:
            found[name].append(images_per_s(name))
        except RuntimeError as error:
            print(f"{name}: {error}", flush=True)

    for _ in range(rounds):
        with ThreadPoolExecutor(comparison.num_at_once) as pool:
            list(pool.map(measure, found))
    (first, firsts), *_ = found.items()
    for name, rates in found.items():
        if rates:
            median, spread = statistics.median(rates), f"{min(rates):.1f} to {max(rates):.1f}"
            # Of the same rounds: other load changes from one to the next.
            ratios = [mine / other for mine, other in zip(firsts, rates, strict=False)]
            ratio = f"{first} has {statistics.median(ratios):.2f} times that" if ratios and name != first else ""
            print(f"{what:38} {name:12} {median:7.1f} images/s ({spread}) {ratio}".rstrip(), flush=True)


MEASURED = {"loader": loader, "validation": validation, "step": step, "map": mean_ap}


def main() -> None:
    """Measure what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=[*MEASURED, "all"], default="all")
    parser.add_argument(
        "--trainers", default="hpc-yolo,yolov5", help=f"of {', '.join(TRAINERS)}; the first is compared"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16, help="images of a step")
    parser.add_argument("--size", default="n", help="of the model of step and map, such as s")
    parser.add_argument("--in-turn", action="store_true", help="one trainer after the other")
    parser.add_argument("--directory", type=Path, help="keep data, runs and logs there")
    parser.add_argument("--remove", action="store_true", help="delete the environments")
    options = parser.parse_args()
    if options.remove:
        shutil.rmtree(ROOT, ignore_errors=True)
        return
    with tempfile.TemporaryDirectory() as temporary:
        directory = (options.directory or Path(temporary)).resolve()
        directory.mkdir(parents=True, exist_ok=True)
        comparison = Comparison(
            directory,
            options.trainers.split(","),
            batch=options.batch,
            size=options.size,
            in_turn=options.in_turn,
        )
        print("; ".join(versions(name, ROOT) for name in comparison.names), flush=True)
        for name in MEASURED if options.what == "all" else [options.what]:
            MEASURED[name](comparison, options.rounds)


if __name__ == "__main__":
    main()
