"""Assembling what one rank trains with: data, network, loss, optimiser, and the state to go on from."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hpc_yolo import checkpoint
from hpc_yolo.checkpoint import ModelDescription, Progress
from hpc_yolo.data.dataset import Dataset, load_dataset
from hpc_yolo.data.labels import ImageIndex, scan_split
from hpc_yolo.data.loader import TrainingLoader, ValidationLoader, memory_needed_bytes
from hpc_yolo.data.memory import available_bytes
from hpc_yolo.data.sampler import steps_per_epoch
from hpc_yolo.distributed import World
from hpc_yolo.engine.ema import ModelEma
from hpc_yolo.engine.optimizer import Schedule, build_optimizer
from hpc_yolo.engine.trainer import TrainingParts
from hpc_yolo.errors import CheckpointError, TrainingError
from hpc_yolo.loss import DetectionLoss, scaled_gains
from hpc_yolo.models import Detector, build_model, load_config
from hpc_yolo.models.sync_batchnorm import convert_sync_batchnorm
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.hyperparameters import load_hyperparameters
from hpc_yolo.spec.schema import Hyperparameters, Spec, TrainSpec
from hpc_yolo.weights import model_file

PROGRESS_S = 5.0
CACHE_MEMORY_SHARE = 0.8  # workers, batches and the page cache live in memory too


def build(spec: Spec, world: World, run: RunDirectory, warn: Callable[[str], None]) -> TrainingParts:
    """Everything that this rank's `Trainer` needs, with the state of `last` where there is one.

    Args:
        warn: told, on rank 0, of pictures left out and the like.

    Raises:
        DataError: the dataset cannot be used.
        CheckpointError: `last` or the weights cannot be used.
        TrainingError: the global batch cannot be split over the ranks.
    """
    require_even_split(spec.train.batch, world.size)
    dataset = load_dataset(Path(spec.data), single_cls=spec.train.single_cls)
    indexes = scan_dataset(dataset, world, run, warn)
    hyp = load_hyperparameters(spec.train)
    if world.is_main:
        for message in without_effect(hyp, indexes[0]):
            warn(message)
    in_memory = spec.train.cache == "ram" and fits_in_memory(indexes[0], spec.train.imgsz, world, warn)
    parts = build_parts(spec, dataset, indexes, hyp, world, in_memory=in_memory)
    if run.last.exists():
        restore(parts, run.last)
    return parts


def build_parts(
    spec: Spec,
    dataset: Dataset,
    indexes: tuple[ImageIndex, ImageIndex],
    hyp: Hyperparameters,
    world: World,
    *,
    in_memory: bool = False,
) -> TrainingParts:
    """Network, loss, optimiser and loaders as they are before the first step."""
    train = spec.train
    num_steps = steps_per_epoch(indexes[0].num_images, train.batch)
    schedule = Schedule(hyp, train.epochs, num_steps, train.batch, train.cos_lr, train.late_lr)
    dtype = torch.float64 if train.precision == "fp64" else torch.float32
    model = build_network(spec, dataset.num_classes, world.device).to(dtype)
    gains = scaled_gains(hyp, num_levels=len(model.stride), num_classes=dataset.num_classes, imgsz=train.imgsz)
    loss = DetectionLoss(model.head.anchors, dataset.num_classes, hyp, gains, train.label_smoothing)
    ema = ModelEma(model)  # before the network is changed for many ranks: it is evaluated alone
    mixed = autocast_dtype(train.precision, world.device)
    training, validation = build_loaders(train, indexes, hyp, int(model.stride.max()), world, in_memory=in_memory)
    return TrainingParts(
        spec=spec,
        description=ModelDescription(
            model=spec.model, config=load_config(spec.model), names=list(dataset.names), imgsz=train.imgsz
        ),
        model=model,
        trained=distribute(model, train.sync_bn, world),
        ema=ema,
        loss=loss.to(world.device),
        optimizer=build_optimizer(model, train.optimizer, schedule),
        scaler=torch.amp.GradScaler(world.device.type, enabled=mixed is torch.float16),
        dtype=dtype,
        autocast_dtype=mixed,
        schedule=schedule,
        training=training,
        validation=validation,
        progress=Progress(num_images=indexes[0].num_images),
    )


def build_loaders(
    train: TrainSpec,
    indexes: tuple[ImageIndex, ImageIndex],
    hyp: Hyperparameters,
    stride: int,
    world: World,
    *,
    in_memory: bool = False,
) -> tuple[TrainingLoader, ValidationLoader]:
    """The training and validation pictures of this rank."""
    places = {"rank": world.rank, "world_size": world.size, "workers": loader_workers(train.workers, world)}
    training = TrainingLoader(
        indexes[0],
        imgsz=train.imgsz,
        batch=train.batch,
        hyp=hyp,
        seed=train.seed,
        in_memory=in_memory,
        rect=train.rect,
        stride=stride,
        on_progress=progress_lines("decoding train pictures", world.is_main),
        **places,
    )
    return training, ValidationLoader(indexes[1], imgsz=train.imgsz, batch=2 * train.batch, stride=stride, **places)


def fits_in_memory(index: ImageIndex, imgsz: int, world: World, warn: Callable[[str], None]) -> bool:
    """Whether every node has room for the decoded pictures of all its ranks; where one has not, none keeps them."""
    needed_bytes = memory_needed_bytes(index, imgsz) * world.process.local_world_size
    nodes = world.gather_figures([needed_bytes, available_bytes()])
    needed, free = max(nodes, key=lambda node: node[0] / max(node[1], 1))
    fits = needed <= free * CACHE_MEMORY_SHARE
    if not fits and world.is_main:
        warn(
            f"train.cache: pictures are read from files: decoded, the {index.num_images} pictures need "
            f"{needed / 2**30:.1f} GiB for the ranks of a node, and {free / 2**30:.1f} GiB are free"
        )
    return fits


def restore(parts: TrainingParts, last: Path) -> None:
    """Go on from the state in `last`.

    Raises:
        CheckpointError: it is damaged, or was made for another model or another number of pictures.
    """
    progress = checkpoint.load_training(last, model=parts.model, ema=parts.ema.model, optimizer=parts.optimizer)
    if progress.num_images != parts.progress.num_images:
        raise CheckpointError(
            f"{last}: was made with {progress.num_images} training pictures, "
            f"and there are {parts.progress.num_images} now",
            hint="bring the dataset back, or give a run on the new one another name and weights: best.safetensors",
        )
    parts.progress = progress
    parts.ema.updates = progress.ema_updates
    if progress.scaler:  # empty where the attempt before needed none
        parts.scaler.load_state_dict(progress.scaler)


def require_even_split(batch: int, world_size: int) -> None:
    """The ranks that are there may be others than the spec asked for.

    Raises:
        TrainingError: the batch is no multiple of the world size.
    """
    if batch % world_size:
        raise TrainingError(
            f"train.batch: {batch} images cannot be split evenly over {world_size} ranks",
            hint=f"take a multiple of {world_size}, or another number of tasks",
        )


def without_effect(hyp: Hyperparameters, index: ImageIndex) -> list[str]:
    """What the hyperparameters ask for and does not happen with these pictures or in this version."""
    messages = []
    if hyp.copy_paste and index.outlines.is_empty:
        messages.append("hyperparameter copy_paste has no effect: no label is a polygon")
    if hyp.anchors is not None:
        messages.append("hyperparameter anchors has no effect: the model's own anchors stay")
    return messages


def scan_dataset(
    dataset: Dataset, world: World, run: RunDirectory, warn: Callable[[str], None]
) -> tuple[ImageIndex, ImageIndex]:
    """Labels of the training and validation pictures. Rank 0 reads them first and leaves a cache to the others."""
    if not world.is_main:
        world.barrier()
    train, val = (
        scan_split(
            dataset,
            split,
            progress_lines(f"reading {split} pictures", world.is_main),
            spare_cache=run.label_cache(split),
        )
        for split in ("train", "val")
    )
    indexes = train, val
    if world.is_main:
        for message in (*dataset.messages, *train.messages, *val.messages):
            warn(message)
        world.barrier()
    return indexes


def progress_lines(what: str, is_main: bool) -> Callable[[int, int], None]:
    """A callback (done, total) for long work: rank 0 prints a line into its log every few seconds."""
    printed_s = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        nonlocal printed_s
        if is_main and time.monotonic() - printed_s >= PROGRESS_S:
            printed_s = time.monotonic()
            print(f"{what}: {done}/{total}", flush=True)

    return on_progress


def build_network(spec: Spec, num_classes: int, device: torch.device) -> Detector:
    """The network on `device`, from the seed or from `weights`, with the layers below `freeze` held still."""
    torch.manual_seed(spec.train.seed)
    model = build_model(spec.model, num_classes)
    if spec.weights:
        model_file.transfer(model_file.read_model_file(Path(spec.weights)), model)
    freeze(model, spec.train.freeze)
    return model.to(memory_format=torch.channels_last).to(device)  # faster on CPUs and GPUs alike


def freeze(model: Detector, layers: int | list[int]) -> None:
    """Hold the first so many layers still, or those with the listed indices; batch norm goes on measuring."""
    for index in range(layers) if isinstance(layers, int) else layers:
        model.model[index].requires_grad_(False)


def distribute(model: nn.Module, sync_bn: bool, world: World) -> nn.Module:
    """`model` wrapped so that backward passes sum its gradients over the ranks; as it is for a single rank."""
    if world.size == 1:
        return model
    if sync_bn:
        model = convert_sync_batchnorm(model, world.device)
    # Buffers, that is running statistics, follow rank 0's at every step: DDP's default under whatever name.
    return DistributedDataParallel(
        model,
        device_ids=[world.device.index] if world.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The type of mixed precision, None where there is none. `auto`: bf16 or fp16 on a GPU, fp32 on a CPU."""
    if precision == "auto":
        if device.type == "cpu":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"fp32": None, "fp64": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def cpus_per_rank(world: World) -> int:
    """Cores that one rank of this node may count on."""
    return max(len(os.sched_getaffinity(0)) // world.process.local_world_size, 1)


def loader_workers(requested: int, world: World) -> int:
    """Loader processes of this rank: as asked, but no more than its cores, of which a CPU task computes on one."""
    spare = cpus_per_rank(world) - (1 if world.device.type == "cpu" else 0)
    return min(requested, spare)
