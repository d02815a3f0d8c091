"""Evaluation of a picture at three sizes, once mirrored, as YOLOv5's test-time augmentation."""

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
    sees better.
    """
    width = images.shape[3]
    decoded = []
    for share, mirrored in VIEWS:
        rows = model(_view(images, share, mirrored, int(model.stride.max())))[0]
        rows[..., :4] /= share
        if mirrored:
            rows[..., 0] = width - rows[..., 0]
        decoded.append(rows)
    levels = len(model.stride)
    unit = sum(4**level for level in range(levels))  # rows of the coarsest level go so many times into all
    first, last = decoded[0], decoded[-1]
    decoded[0] = first[:, : first.shape[1] - first.shape[1] // unit]
    decoded[-1] = last[:, last.shape[1] // unit * 4 ** (levels - 1) :]
    return torch.cat(decoded, dim=1)


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
