"""Building of the context of one rank: data, model, loss, optimiser, and the state from which training resumes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from msgspec.structs import replace
from torch.nn.parallel import DistributedDataParallel

from hpc_yolo.checkpoint import restore
from hpc_yolo.checkpoint.state import TrainingState
from hpc_yolo.core.errors import TrainingError
from hpc_yolo.core.files import write_atomic
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.loader import TrainingLoader
from hpc_yolo.data.run_inputs import RunInputs, keep_inputs, read_inputs, require_same_dataset
from hpc_yolo.data.sampler import largest_imgsz, steps_per_epoch
from hpc_yolo.distributed import World
from hpc_yolo.models import Detector
from hpc_yolo.models.heads.base import AnchorHead
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, WarningRaised
from hpc_yolo.spec.fingerprint import learned_digest
from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.train import MEASURED_BATCH, TrainSpec
from hpc_yolo.training.autobatch import find_batch
from hpc_yolo.training.context import TrainingContext, TrainingIdentity
from hpc_yolo.training.cuda_graph import GraphedModel
from hpc_yolo.training.ema import ModelEma
from hpc_yolo.training.evaluation import EvaluationRecord
from hpc_yolo.training.images import build_loaders, scan_dataset
from hpc_yolo.training.kept_images import keep_images
from hpc_yolo.training.meter import StepMeter
from hpc_yolo.training.model import Origin, autocast_dtype, build_model, distribute, fit_anchors, model_origin
from hpc_yolo.training.nan_guard import BadStep, NanGuard, Statistics
from hpc_yolo.training.optimizer import Schedule, build_optimizer
from hpc_yolo.training.resume import read_newest_state
from hpc_yolo.training.staging import staged_images
from hpc_yolo.training.updater import Updater
from hpc_yolo.training.upload import BatchUpload

MAX_NAMED_IMAGES = 8


def build(
    spec: Spec,
    world: World,
    run: RunDirectory,
    emit: Callable[[AnyEvent], None],
    attempt: int = 1,
    held: contextlib.ExitStack | None = None,
) -> TrainingContext:
    """Return the context of this rank's `Trainer`, with the newest state loaded if there is one.

    Args:
        emit: writes events to the journal; events of other ranks than the first are discarded.
        held: keeps staged copies of the images until it is closed; without it none are made.

    Raises:
        DataError: the dataset cannot be used.
        CheckpointError: the saved states or the weights cannot be used.
        RunError: the run's copies of its inputs cannot be used.
        TrainingError: the global batch cannot be split over the ranks, or the device cannot augment images.
    """
    require_device(spec.train, world.device)
    if world.is_main:
        keep_inputs(run, spec)
    world.barrier()
    if world.process.local_rank == 0:
        require_same_dataset(run, spec)
    inputs = read_inputs(run, spec)
    if held is not None:
        held.enter_context(staged_images(inputs.dataset, spec.data, world, emit, spec.train.start_timeout_s))
    indexes = scan_dataset(inputs.dataset, world, run, emit)
    _warn(spec.train, inputs.hyperparameters, indexes[0], emit)
    state = read_newest_state(run, world, emit)
    origin = _origin(spec, inputs, state)
    batch = batch_of(spec.train, origin, inputs.dataset.num_classes, world, run, emit)
    require_trainable(spec.train, batch, origin, world.size)
    identity = TrainingIdentity(indexes[0].num_images, learned_digest(spec), inputs.digest, run.inputs)
    spec = replace(spec, train=replace(spec.train, batch=batch))
    context = build_context(spec, inputs, indexes, origin, identity, world, run.checkpoints, emit)
    context.attempt = attempt
    settle_gradient_buckets(context, world.device)
    if state is not None:
        restore(context.stateful_parts, state)
    if world.is_main:
        keep_images(run, inputs.dataset, indexes, emit)  # which the state has accepted
    return context


def _warn(train: TrainSpec, hyp: Hyperparameters, index: ImageIndex, emit: Callable[[AnyEvent], None]) -> None:
    """Emit a warning for each option that has no effect or costs time."""
    if hyp.copy_paste and index.outlines.is_empty:
        emit(WarningRaised(message="hyperparameter copy_paste has no effect: no label is a polygon"))
    if train.data_parallel:
        emit(WarningRaised(message="data_parallel is slow: one task a GPU, without it, is faster"))


def _origin(spec: Spec, inputs: RunInputs, state: TrainingState | None) -> Origin:
    """Return the origin of the model: that of a new run, or the saved `state`."""
    if state is None:
        return model_origin(spec.model, spec.weights, inputs.model, inputs.hyperparameters.anchors)
    return Origin(spec.model_source, state.description.config, is_new=False)


def batch_of(
    train: TrainSpec,
    origin: Origin,
    num_classes: int,
    world: World,
    run: RunDirectory,
    emit: Callable[[AnyEvent], None],
) -> int:
    """Return the number of images of one step over all ranks: for -1 that found by the first attempt.

    Raises:
        TrainingError: -1 on several ranks.
    """
    if train.batch != MEASURED_BATCH:
        return train.batch
    if world.size > 1:
        raise TrainingError(
            f"train.batch: -1 measures the memory of one rank, and there are {world.size}",
            hint="give a number of images",
        )
    if run.found_batch.exists():
        return int(run.found_batch.read_text())
    model = build_model(origin, train, num_classes, world.device, emit=lambda _event: None)
    imgsz = largest_imgsz(train.imgsz, model.image_stride) if train.multi_scale else train.imgsz
    batch = find_batch(model, imgsz, train.precision, world.device, emit)
    write_atomic(run.found_batch, f"{batch}\n")
    return batch


def build_context(
    spec: Spec,
    inputs: RunInputs,
    indexes: tuple[ImageIndex, ImageIndex],
    origin: Origin,
    identity: TrainingIdentity,
    world: World,
    checkpoints: Path,
    emit: Callable[[AnyEvent], None],
) -> TrainingContext:
    """Return model, loss, optimiser and loaders as they are before the first step; the batch of `spec` is no -1."""
    train, hyp, dataset = spec.train, inputs.hyperparameters, inputs.dataset
    num_steps = steps_per_epoch(indexes[0].num_images, train.batch)
    schedule = Schedule(hyp, train.epochs, num_steps, train.batch, train.cos_lr, train.legacy_lr_schedule)
    model = model_with_anchors(origin, train, dataset.num_classes, indexes[0], hyp, world, emit)
    ema = ModelEma(model)  # before the model is wrapped for many ranks: evaluation needs no wrapper
    mixed = autocast_dtype(train.precision, world.device)
    scaler = torch.amp.GradScaler(world.device.type, enabled=mixed is torch.float16)
    updater = Updater(model, ema, build_optimizer(model, train.optimizer, schedule), scaler)
    trained = distribute(model, train, world, mixed, emit)
    training, validation = build_loaders(spec, indexes, hyp, model.image_stride, world, emit)
    loss = model.head.loss(hyp, train.imgsz, train.label_smoothing)
    evaluations = EvaluationRecord()
    describe = functools.partial(describe_bad_step, training, evaluations, num_steps)
    return TrainingContext(
        train=train,
        checkpoint=spec.checkpoint,
        model_name=spec.model,
        config=origin.config,
        names=list(dataset.names),
        identity=identity,
        model=model,
        trained=trained,
        upload=BatchUpload(world.device),
        ema=ema,
        loss=loss,
        updater=updater,
        autocast_dtype=mixed,
        schedule=schedule,
        training=training,
        validation=validation,
        meter=StepMeter(world, trained, loss.names),
        evaluations=evaluations,
        nan_guard=NanGuard(world, model, train.on_nonfinite, num_steps, emit, describe, checkpoints),
        evaluates_aside=spec.validate == "aside",
    )


def model_with_anchors(
    origin: Origin,
    train: TrainSpec,
    num_classes: int,
    index: ImageIndex,
    hyp: Hyperparameters,
    world: World,
    emit: Callable[[AnyEvent], None],
) -> Detector:
    """Return the initial model; later attempts load their anchors from the checkpoint."""
    dtype = torch.float64 if train.precision == "fp64" else torch.float32
    model = build_model(origin, train, num_classes, world.device, emit).to(dtype)
    if train.autoanchor and origin.is_new and isinstance(model.head, AnchorHead):
        must_change = origin.has_placeholder_anchors
        fit_anchors(model.head, index, train.imgsz, hyp, train.seed, world, emit, must_change=must_change)
    return model


def describe_bad_step(
    training: TrainingLoader, evaluations: EvaluationRecord, steps_per_epoch: int, bad: BadStep
) -> str:
    """Return a sentence with the step, the rank and that rank's images."""
    epoch, step = divmod(bad.step, steps_per_epoch)
    paths = training.image_paths(epoch, step, bad.rank, evaluations.class_maps)
    return (
        f"loss or gradients are not finite at step {bad.step} (epoch {epoch + 1}), first on rank {bad.rank} "
        f"with {listed_images(paths)}"
    )


def listed_images(paths: Sequence[Path]) -> str:
    """Return the first few of `paths` for a sentence."""
    named = ", ".join(str(path) for path in paths[:MAX_NAMED_IMAGES])
    more = len(paths) - MAX_NAMED_IMAGES
    return f"{named} and {more} more" if more > 0 else named


def settle_gradient_buckets(context: TrainingContext, device: torch.device) -> None:
    """Let DistributedDataParallel order its buckets before the first step, by a backward pass without effect.

    It orders them once, after its first backward pass, and sums of floats depend on the order: without this the first
    step of a resumed attempt would round differently from the same step of an uninterrupted one.
    """
    distributed = context.trained.eager if isinstance(context.trained, GraphedModel) else context.trained
    if not isinstance(distributed, DistributedDataParallel):
        return
    statistics = Statistics(context.model)
    side = 2 * context.model.image_stride
    image = torch.zeros(1, 3, side, side, dtype=context.dtype, device=device)
    context.model.train()
    with context.autocast(device):
        levels = distributed(image.to(memory_format=torch.channels_last))
    torch.stack([level.float().sum() for level in levels]).sum().backward()  # type: ignore[no-untyped-call]
    context.updater.optimizer.zero_grad()
    statistics.restore()


def require_device(train: TrainSpec, device: torch.device) -> None:
    """Check that `device` can do what the spec leaves to it.

    Raises:
        TrainingError: it is to augment images, and is no GPU.
    """
    if train.augment_device == "gpu" and device.type == "cpu":
        raise TrainingError(
            "train.augment_device: gpu needs a GPU, and this task has none",
            hint="set train.augment_device: auto, or ask for GPUs (cluster.gpus_per_node)",
        )


def require_trainable(train: TrainSpec, batch: int, origin: Origin, world_size: int) -> None:
    """Check that no anchors are missing, and that `batch` images can be split over the ranks, whose number may change.

    Raises:
        TrainingError: anchors are to be fitted and autoanchor is off, or the batch is not a multiple of the world size.
    """
    if origin.is_new and origin.has_placeholder_anchors and not train.autoanchor:
        raise TrainingError(
            f"train.autoanchor: is off, and {origin.name} has {origin.config['anchors']} anchors a level "
            "that are still to be fitted",
            hint="set train.autoanchor: true, or list the anchors in the model's YAML",
        )
    if batch % world_size:
        below, above = batch // world_size * world_size, (batch // world_size + 1) * world_size
        nearest = f"{below} or {above}" if below else str(above)
        raise TrainingError(
            f"train.batch: {batch} images cannot be split evenly over {world_size} ranks",
            hint=f"take {nearest}, or another number of tasks",
        )
