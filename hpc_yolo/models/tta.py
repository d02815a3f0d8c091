"""Evaluation of an image at three sizes, once mirrored, as YOLOv5's test-time augmentation."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from hpc_yolo.models.family import Detector

VIEWS = ((1.0, False), (0.83, True), (0.67, False))  # share of the size, mirrored
GREY = 0.447  # of what is added to whole strides


@torch.no_grad()
def augmented_forward(model: Detector, images: torch.Tensor) -> torch.Tensor:
    """Decoded rows (B, rows, 5 + classes) of all views, in pixels of `images` (B, 3, H, W).

    Of the largest view the coarsest level is left out, of the smallest the finest: there they see what another view
    sees better. A network of one level keeps both.
    """
    width = images.shape[3]
    decoded = []
    for share, mirrored in VIEWS:
        rows, levels = model(_view(images, share, mirrored, model.image_stride))
        rows[..., :4] /= share
        if mirrored:
            rows[..., 0] = width - rows[..., 0]
        decoded.append((rows, [math.prod(level.shape[1:4]) for level in levels]))
    (first, num_first), second, (last, num_last) = decoded
    if len(num_first) > 1:
        first, last = first[:, : -num_first[-1]], last[:, num_last[0] :]
    return torch.cat((first, second[0], last), dim=1)


def _view(images: torch.Tensor, share: float, mirrored: bool, stride: int) -> torch.Tensor:
    seen = images.flip(3) if mirrored else images
    if share == 1.0:
        return seen
    height, width = images.shape[2:]
    seen = functional.interpolate(
        seen, size=(int(height * share), int(width * share)), mode="bilinear", align_corners=False
    )
    padded_height, padded_width = (math.ceil(side * share / stride) * stride for side in (height, width))
    return functional.pad(seen, (0, padded_width - seen.shape[3], 0, padded_height - seen.shape[2]), value=GREY)
