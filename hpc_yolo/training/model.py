"""The model that a run trains: layers, initial weights, anchors that fit the labels, wrapper for many ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hpc_yolo.core.errors import SpecError
from hpc_yolo.data.anchors import Sizes, anchor_fit, better_anchors, find_anchors, label_sizes
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.distributed import World
from hpc_yolo.models import Detector, build_from_config, freeze, load_config
from hpc_yolo.models.heads.base import AnchorHead
from hpc_yolo.models.sync_batchnorm import convert_sync_batchnorm
from hpc_yolo.runs.events import AnchorsChecked, AnyEvent, WarningRaised, WeightsLoaded
from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.training.cuda_graph import GraphedModel
from hpc_yolo.weights.model_file import ModelFile, read_model_file, transfer


@dataclass(frozen=True)
class Origin:
    """Origin of a run's model: its name, layers and weights, and whether this run has learned anything before."""

    name: str
    config: dict[str, Any]
    weights: ModelFile | None = None
    takes_anchors: bool = True  # those of the weights
    is_new: bool = True

    @property
    def has_placeholder_anchors(self) -> bool:
        """True if the layers give only the number of anchors, and the weights have none."""
        return isinstance(self.config.get("anchors"), int) and (self.weights is None or not self.takes_anchors)


def model_origin(model: str, weights: str, layers: dict[str, Any] | None, anchors: float | None) -> Origin:
    """Return the origin of a model that has learned nothing in this run.

    Args:
        model: its name or file; "" takes the layers of the weights.
        weights: the file of its initial weights, or "".
        layers: those of `model`; read unless given.
        anchors: number of anchors a level, instead of those of the layers or the weights.

    Raises:
        SpecError: there is no such model, or it has no anchors to replace.
        CheckpointError: the weights cannot be used.
    """
    file = read_model_file(Path(weights)) if weights else None
    config = layers or (load_config(model) if file is None else file.config)
    if anchors is not None:
        if "anchors" not in config:
            raise SpecError(
                f"hyperparameter anchors: {anchors:g} a level, and {model or weights} has none",
                hint="leave it out, or take a model with anchors",
            )
        config = {**config, "anchors": round(anchors)}
    return Origin(model or weights, config, file, takes_anchors=not model and anchors is None)


def build_model(
    origin: Origin, train: TrainSpec, num_classes: int, device: torch.device, emit: Callable[[AnyEvent], None]
) -> Detector:
    """Return the model on `device`, from the seed or from weights, with the layers of `train.freeze` frozen.

    Raises:
        TrainingError: `train.freeze` names layers that do not exist, or leaves none trainable.
    """
    torch.manual_seed(train.seed)
    model = build_from_config(origin.config, num_classes, origin.name)
    if origin.weights is not None:
        done = transfer(origin.weights, model, with_anchors=origin.takes_anchors)
        emit(WeightsLoaded(path=str(origin.weights.path), num_kept=done.num_kept, num_tensors=done.num_tensors))
    freeze(model, train.freeze)
    return model.to(memory_format=torch.channels_last).to(device)  # faster on CPUs and GPUs alike


def fit_anchors(
    head: AnchorHead,
    index: ImageIndex,
    imgsz: int,
    hyp: Hyperparameters,
    seed: int,
    world: World,
    emit: Callable[[AnyEvent], None],
    *,
    must_change: bool = False,
) -> None:
    """Replace the anchors of `head` if they fit the labels of `index` badly; the same on all ranks.

    Args:
        must_change: replace them in any case: they are placeholders.
    """
    if world.is_main:
        random = np.random.default_rng(seed)
        sizes = label_sizes(index, imgsz, random)
        before = head.anchors_pixels().double().cpu().numpy()
        if must_change:
            after: Sizes | None = find_anchors(sizes, before.size // 2, imgsz, hyp.anchor_t, random)
        else:
            after = better_anchors(sizes, before.reshape(-1, 2), imgsz, hyp.anchor_t, random)
        fit = anchor_fit(sizes, before.reshape(-1, 2) if after is None else after, hyp.anchor_t)
        if after is not None:
            head.set_anchors(torch.from_numpy(after.reshape(before.shape)))
        emit(
            AnchorsChecked(
                best_possible_recall=fit.best_possible_recall,
                anchors_per_target=fit.anchors_per_target,
                are_new=after is not None,
                anchors=head.anchors_pixels().flatten(1).tolist(),
            )
        )
    world.broadcast([head.anchors])


def distribute(
    model: nn.Module, train: TrainSpec, world: World, mixed: torch.dtype | None, emit: Callable[[AnyEvent], None]
) -> nn.Module:
    """Return `model` wrapped so that backward passes average its gradients over the ranks.

    Where they can be, its passes are replayed as CUDA graphs. With `data_parallel` a single process splits each batch
    over the GPUs of this machine and gathers the outputs.
    """
    is_cuda = world.device.type == "cuda"
    if train.data_parallel and is_cuda:
        device_ids = None if train.device == "auto" else [int(number) for number in train.device.split(",")]
        return nn.DataParallel(model, device_ids=device_ids)
    eager = model if world.size == 1 else averaging(model, train, world)
    # Not tried on AMD's GPUs, for which torch 2.11 refuses to record the events of `GradientBuckets`.
    if not (is_cuda and torch.version.hip is None and train.replays_graphs(world.size)):
        return eager
    return GraphedModel(model, eager, mixed, world, lambda message: emit(WarningRaised(message=message)))


def averaging(model: nn.Module, train: TrainSpec, world: World) -> DistributedDataParallel:
    """Return `model` with DistributedDataParallel around it."""
    distributed = DistributedDataParallel(
        convert_sync_batchnorm(model, world.device) if train.sync_bn else model,
        device_ids=[world.device.index] if world.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )
    # Training does not read running statistics; `evaluate_average` copies rank 0's. No argument: torch 2.14 renamed it.
    distributed.broadcast_buffers = False
    return distributed


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type of mixed precision, None for none. `auto`: bf16 or fp16 on a GPU, fp32 on a CPU."""
    if precision == "auto":
        if device.type == "cpu":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"fp32": None, "fp64": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
