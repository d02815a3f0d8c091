"""The loss of one global batch and its gradients, on one rank."""

from __future__ import annotations

import math

import torch
from torch import nn

from hpc_yolo.data.sampler import scaled_imgsz
from hpc_yolo.data.undrawn import AnyTrainingBatch
from hpc_yolo.distributed import World
from hpc_yolo.training.context import TrainingContext


def add_gradients(context: TrainingContext, world: World, batch: AnyTrainingBatch, step: int) -> torch.Tensor:
    """Add the gradients of this rank's shard of a global batch, averaged over the ranks.

    Returns:
        This rank's part of the loss terms, (terms,) in the order of their names.
    """
    pixels, targets = context.upload(batch)
    images = scaled_images(context, pixels, step)
    with context.autocast(world.device):
        predictions = context.trained(images)
    terms = context.loss(predictions, targets, world.sum_over_ranks, world.size)
    # DDP averages gradients over the ranks; the loss of a global batch is the sum of its ranks' parts. It averages
    # at every step, also between optimiser steps: the gradients are then the same on all ranks, bit by bit.
    values = torch.stack(list(terms.values()))
    total = values.sum() * (len(images) * world.size)
    context.updater.scaler.scale(total * world.size).backward()  # type: ignore[no-untyped-call]
    return values.detach()


def scaled_images(context: TrainingContext, images: torch.Tensor, step: int) -> torch.Tensor:
    """Return images (shard, 3, H, W) in [0, 1]; in multi-scale training in another size, the same on all ranks."""
    images = images.contiguous(memory_format=torch.channels_last)  # as loaders make them
    pixels = torch.div(images, 255) if context.dtype is torch.float32 else images.to(context.dtype) / 255
    train, stride = context.train, context.model.image_stride
    if not train.multi_scale:
        return pixels
    epoch, step_of_epoch = divmod(step, context.schedule.steps_per_epoch)
    longer = scaled_imgsz(train.seed, epoch, step_of_epoch, train.imgsz, stride)
    factor = longer / max(pixels.shape[2:])
    sides = [math.ceil(side * factor / stride) * stride for side in pixels.shape[2:]]
    return nn.functional.interpolate(pixels, size=sides, mode="bilinear", align_corners=False)
