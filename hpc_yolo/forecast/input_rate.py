"""How many training images a second the loaders of a run can give, and whether its GPUs can train more than that.

From measurements that `hpc-yolo bench data SPEC` has left in the user's state directory, and known speeds of GPUs.
Nothing is measured here.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from pathlib import Path
from typing import Annotated, Any

import msgspec

from hpc_yolo.core.files import append_json_line, read_json_lines
from hpc_yolo.core.worker_count import worker_count
from hpc_yolo.spec.data import WINDOW
from hpc_yolo.spec.hyperparameters import load_hyperparameters
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.train import AUTO_CACHE_FRACTION

FILE_NAME = "input_rates.jsonl"
ENOUGH = 0.95  # of what the GPUs can train: less is worth a warning
WORTH_WAITING = 0.15  # fraction of a step spent waiting for images that is worth a warning

# Images a second of a training step on one GPU, bf16, 64 images of 640 px: benchmarks/results/h100.json.
KNOWN_IMAGES_PER_S = {
    ("h100", "yolov5n"): 1548.0,
    ("h100", "yolov5s"): 1057.0,
    ("h100", "yolov5l"): 447.0,
}
# The same with CUDA graphs.
KNOWN_IN_GRAPHS_PER_S = {
    ("h100", "yolov5n"): 2469.0,
    ("h100", "yolov5s"): 1815.0,
    ("h100", "yolov5m"): 927.0,
    ("h100", "yolov5l"): 669.0,
    ("h100", "yolov5x"): 339.0,
}
KNOWN_IMGSZ = 640

# Hyperparameters that change no image; any other, also one that a later version adds, makes another measurement.
OF_LEARNING = frozenset(
    {
        *("lr0", "lrf", "momentum", "weight_decay", "warmup_epochs", "warmup_momentum", "warmup_bias_lr"),
        *("box", "cls", "cls_pw", "obj", "obj_pw", "iou", "dfl", "anchor_t", "anchors", "fl_gamma", "close_mosaic"),
    }
)
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class InputRate(msgspec.Struct, frozen=True, kw_only=True):
    """Processor time of a training image in a loader.

    Attributes:
        data: dataset YAML as the spec names it.
        imgsz: side of the training image.
        cpu: name of the processor.
        files_s: of an image from files, on one core.
        memory_s: from decoded images in memory.
        time: of the measurement, seconds since 1970.
        augment_device: cpu, or gpu, which takes work from the processor.
        rect: as in train.rect.
        window_partners: mosaics take their partners from a window of images, data.mosaic_partners: window.
        augmentation: digest of the hyperparameters that change images; "" in lines of older versions.
        decoded_bytes: of the decoded training and validation images; 0 in lines of older versions.
    """

    data: str
    imgsz: int
    cpu: str
    files_s: Seconds
    memory_s: Seconds
    time: float
    augment_device: str = "cpu"
    rect: bool = False
    window_partners: bool = False
    augmentation: str = ""
    decoded_bytes: int = 0


def conditions(spec: Spec) -> dict[str, Any]:
    """Return the fields of an `InputRate` that decide what work an image of `spec` is in a loader.

    Raises:
        SpecError: there are no such hyperparameters.
    """
    hyp = load_hyperparameters(spec.train, spec.model)
    values = msgspec.to_builtins(hyp)
    augmentation = sorted((name, value) for name, value in values.items() if name not in OF_LEARNING)
    return {
        "imgsz": spec.train.imgsz,
        "augment_device": "gpu" if spec.train.augments_on_gpu(hyp, has_gpu=has_gpus(spec)) else "cpu",
        "rect": spec.train.rect,
        "window_partners": spec.data.mosaic_partners == WINDOW,
        "augmentation": hashlib.sha256(repr(augmentation).encode()).hexdigest()[:16],
    }


def has_gpus(spec: Spec) -> bool:
    """Return True if the tasks of `spec` are to compute on GPUs."""
    return spec.cluster.gpus_per_node > 0 and spec.train.device != "cpu"


def add_rate(state: Path, rate: InputRate) -> None:
    """Add a measurement to those of the user.

    Raises:
        OSError: the state directory is not writable.
    """
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    append_json_line(state / FILE_NAME, msgspec.to_builtins(rate))


def find_rate(state: Path, spec: Spec) -> InputRate | None:
    """Return the newest measurement under the `conditions` of `spec`, of its dataset if there is one.

    None without any. Lines of another form are skipped.

    Raises:
        SpecError: the hyperparameters of `spec` cannot be read.
    """
    found = list[InputRate]()
    with contextlib.suppress(OSError):
        for record in read_json_lines(state / FILE_NAME):
            with contextlib.suppress(msgspec.ValidationError):
                found.append(msgspec.convert(record, InputRate))
    wanted = conditions(spec).items()
    fits = [rate for rate in found if all(getattr(rate, name) == value for name, value in wanted)]
    own = [rate for rate in fits if rate.data == spec.data.described]
    return max(own or fits, key=lambda rate: rate.time, default=None)


def is_in_memory(spec: Spec, rate: InputRate | None, node_bytes: int | None) -> bool | None:
    """Return True if the decoded images of `spec` are kept by train.cache; None where that is not known.

    Args:
        rate: has the bytes of the images, if it is of the dataset of `spec`; None without a measurement.
        node_bytes: memory of each node for the run; None where it is not known.
    """
    if spec.train.cache != "auto":
        return spec.train.cache != "none"
    if node_bytes is None or rate is None or not rate.decoded_bytes or rate.data != spec.data.described:
        return None
    return rate.decoded_bytes <= AUTO_CACHE_FRACTION * node_bytes


def loaders_per_rank(spec: Spec, cores_per_rank: int) -> int:
    """Return the loader processes of a rank of `spec`."""
    return worker_count(spec.train.workers, cores_per_rank, is_on_cpu=not spec.cluster.gpus_per_node)


def input_images_per_s(
    rate: InputRate, spec: Spec, world_size: int, cores_per_rank: int, node_bytes: int | None = None
) -> float:
    """Return the images a second that the loaders of all ranks give; without loader processes each task is one.

    From files where it is not known that they are kept in memory; see `is_in_memory`.
    """
    seconds = rate.memory_s if is_in_memory(spec, rate, node_bytes) else rate.files_s
    return world_size * max(loaders_per_rank(spec, cores_per_rank), 1) / seconds


def known_images_per_s(spec: Spec, world_size: int) -> float | None:
    """Return the images a second that the GPUs of `spec` can train, as measured on such a GPU; None if not known.

    For other image sizes in proportion to the pixels.
    """
    kind = (spec.cluster.gpu_type or spec.cluster.gpu or "").lower()
    model = Path(spec.model_source).stem.lower()
    in_graphs = KNOWN_IN_GRAPHS_PER_S if spec.train.replays_graphs(world_size) else {}
    known = KNOWN_IMAGES_PER_S | in_graphs
    found = next((rate for (gpu, name), rate in known.items() if gpu in kind and name == model), None)
    if found is None or not spec.cluster.gpus_per_node:
        return None
    return found * world_size * (KNOWN_IMGSZ / spec.train.imgsz) ** 2


def input_warning(
    rate: InputRate, spec: Spec, world_size: int, cores_per_rank: int, node_bytes: int | None = None
) -> str | None:
    """Return a sentence if the loaders give fewer images than the GPUs can train; None if they do not, or not known."""
    demand = known_images_per_s(spec, world_size)
    given = input_images_per_s(rate, spec, world_size, cores_per_rank, node_bytes)
    if demand is None or given >= ENOUGH * demand:
        return None
    workers = loaders_per_rank(spec, cores_per_rank)
    in_memory = is_in_memory(spec, rate, node_bytes)
    source = f"{rate.data}{'; from files, more if cache: auto finds room' if in_memory is None else ''}"
    what = remedy(spec, cores_per_rank, demand / given, in_memory=in_memory)
    return (
        f"input: {world_size * workers} loader processes give about {given:,.0f} images/s (bench data, "
        f"{source}), and the GPUs can train {demand:,.0f}: {what}"
    )


def waiting_warning(name: str, fraction: float, spec: Spec, cores_per_rank: int) -> str | None:
    """Return a sentence if a measured run of this kind waited for images; None if that is not worth one.

    Args:
        name: of the run.
        fraction: of its steps that the slowest rank waited.
        spec: of the planned run.
        cores_per_rank: that it has.
    """
    if fraction < WORTH_WAITING:
        return None
    in_memory = is_in_memory(spec, None, None)
    what = remedy(spec, cores_per_rank, 1 / max(1 - fraction, 0.1), in_memory=in_memory)
    return f"input: in {name}, {100 * fraction:.0f} % of each step was a wait for images: {what}"


def remedy(spec: Spec, cores_per_rank: int, factor: float, *, in_memory: bool | None) -> str:
    """Return what to change in `spec` for `factor` times the images a second; `in_memory` as `is_in_memory` returns."""
    workers = max(loaders_per_rank(spec, cores_per_rank), 1)
    needed = math.ceil(workers * factor)
    spare = cores_per_rank if spec.cluster.gpus_per_node else cores_per_rank - 1
    options: list[str] = []
    if workers < spare:
        options.append(f"--set train.workers={min(needed, spare)}")
    if needed > spare:
        cores = needed + (0 if spec.cluster.gpus_per_node else 1)
        options.append(f"cluster.cpus_per_task={cores} with train.workers={needed}")
    if spec.train.augment_device == "cpu" and has_gpus(spec):
        options.append("train.augment_device=gpu")
    if not in_memory:
        options.append("train.cache=ram" if in_memory is False else "train.cache=ram if auto finds no room")
    if spec.data.mosaic_partners != WINDOW and not in_memory:
        options.append("data.mosaic_partners=window")
    return ", or ".join(options) if options else "no setting of the spec helps; smaller or packed images do"
