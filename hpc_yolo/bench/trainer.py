"""A trainer without a run, and batches without files: what benchmarks of steps, losses and checkpoints time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.data.batch import TrainingBatch
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.run_inputs import RunInputs
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.data.undrawn import AnyTrainingBatch
from hpc_yolo.distributed import choose_device, connected
from hpc_yolo.models import build_model, load_config
from hpc_yolo.resilience.stop_signal import StopRequest
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.training.backward import scaled_images
from hpc_yolo.training.build import build_context
from hpc_yolo.training.context import TrainingIdentity
from hpc_yolo.training.model import Origin
from hpc_yolo.training.trainer import Trainer
from hpc_yolo.training.updater import MAX_GRAD_NORM

TARGETS_AN_IMAGE, NUM_CLASSES = 7, 80


def make_trainer(
    model: str, train: TrainSpec, directory: Path, *, num_images: int, image_size: tuple[int, int]
) -> Trainer:
    """Return the trainer of a run of `model` in this process, on drawn shapes labelled with 80 classes."""
    return trainer_on(draw_set(directory / "set", num_images, image_size), model, train, directory)


def draw_set(directory: Path, num_images: int, image_size: tuple[int, int]) -> Path:
    """Draw shapes labelled with 80 classes, of `image_size`, width and height; return the dataset YAML."""
    path = write_shapes_dataset(directory, num_train=num_images, num_val=1, image_size=image_size)
    path.write_text(f"train: images/train\nval: images/val\nnames: {[f'class {i}' for i in range(NUM_CLASSES)]}\n")
    return path


def trainer_on(path: Path, model: str, train: TrainSpec, directory: Path) -> Trainer:
    """Return the trainer of a run of `model` in this process, on the dataset `path` of 80 classes."""
    dataset = load_dataset(path)
    indexes = scan_split(dataset, "train"), scan_split(dataset, "val")
    spec = Spec(name="step", model=model, data=DataSpec(path=str(path)), output=str(directory), train=train)
    run, process = RunDirectory(directory / "step"), ProcessInfo.from_env({})
    with connected(process, run, choose_device(train.device, process), timeout_s=10) as world:
        inputs = RunInputs(Hyperparameters(), None, dataset, digest="")
        origin, identity = Origin(model, load_config(model)), TrainingIdentity(indexes[0].num_images)
        context = build_context(spec, inputs, indexes, origin, identity, world, run.checkpoints, lambda _event: None)
        trainer = Trainer(context, world, run, None, StopRequest())
    trainer.context.trained.train()
    return trainer


def random_batch(batch: int, imgsz: int) -> TrainingBatch:
    """Return a batch of random images with seven targets of all sizes each."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, imgsz, imgsz, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    targets = torch.rand(batch * TARGETS_AN_IMAGE, 6, generator=generator)
    targets[:, 0] = torch.arange(len(targets)) % batch
    targets[:, 1] = (targets[:, 1] * NUM_CLASSES).floor()
    targets[:, 4:] = targets[:, 4:] * 0.3 + 0.02
    return TrainingBatch(images, targets)


def whole_step(trainer: Trainer, batch: AnyTrainingBatch) -> None:
    """Run the first step again: in warm-up every batch ends in an optimiser step."""
    trainer.position.step, trainer.context.updater.last_step = 0, -1
    trainer.train_step(batch)


def bare_step(name: str, images: torch.Tensor, mixed: torch.dtype | None = None) -> Callable[[], None]:
    """Return a function that runs forward and backward of the model with float images and no loss.

    Args:
        name: of the model.
        images: (n, 3, height, width), on the device and in the memory format to compute in.
        mixed: type of mixed precision; None for none.
    """
    model = build_model(name, NUM_CLASSES).train().to(memory_format=memory_format_of(images)).to(images.device)

    def step() -> None:
        with torch.autocast(images.device.type, mixed, enabled=mixed is not None):
            levels = model(images)
        sum(level.float().mean() for level in levels).backward()
        model.zero_grad()

    return step


def memory_format_of(images: torch.Tensor) -> torch.memory_format:
    """Return the memory format of `images`."""
    is_last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format


def step_parts(trainer: Trainer, batch: TrainingBatch) -> dict[str, Callable[[], object]]:
    """Return the parts of a training step by name, to be run in this order: those after the backward need gradients."""
    context, updater = trainer.context, trainer.context.updater
    images = scaled_images(context, batch.images.to(trainer.world.device), 0)

    def forward_and_backward() -> None:
        with context.autocast(trainer.world.device):
            levels = context.trained(images)
        sum(level.float().mean() for level in levels).backward()

    def update() -> None:
        updater.optimizer.step()
        updater.optimizer.zero_grad()

    return {
        "  forward and backward": forward_and_backward,
        "  loss, forward and backward": loss_alone(trainer, batch),
        "  images to float": lambda: scaled_images(context, batch.images.to(trainer.world.device), 0),
        "  clipping": lambda: torch.nn.utils.clip_grad_norm_(context.trained.parameters(), MAX_GRAD_NORM),
        "  optimiser": update,
        "  weight average": context.ema.update,
    }


def loss_alone(trainer: Trainer, batch: TrainingBatch) -> Callable[[], None]:
    """Return a function that runs forward and backward of the loss on given predictions."""
    device = trainer.world.device
    targets = batch.targets.to(device)
    with torch.no_grad():
        raw = trainer.context.trained(scaled_images(trainer.context, batch.images.to(device), 0))
    levels = [level.requires_grad_() for level in raw]

    def step() -> None:
        sum(trainer.context.loss(levels, targets).values()).backward()

    return step
