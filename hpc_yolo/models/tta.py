"""YOLOv5's test-time augmentation: an image is evaluated at three sizes, once mirrored."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from hpc_yolo.models.family import Detector

VIEWS = ((1.0, False), (0.83, True), (0.67, False))  # fraction of the size, mirrored
GREY = 0.447  # of the padding to a multiple of the stride


@torch.no_grad()
def augmented_forward(model: Detector, images: torch.Tensor) -> torch.Tensor:
    """Return the decoded predictions (B, predictions, 5 + classes) of all views, in pixels of `images` (B, 3, H, W).

    The coarsest level of the largest view and the finest of the smallest are left out: another view covers those
    object sizes better. A model of one level keeps both.
    """
    width = images.shape[3]
    decoded = []
    for scale, mirrored in VIEWS:
        boxes, levels = model(_view(images, scale, mirrored, model.image_stride))
        boxes[..., :4] /= scale
        if mirrored:
            boxes[..., 0] = width - boxes[..., 0]
        decoded.append((boxes, [math.prod(level.shape[1:4]) for level in levels]))
    (first, num_first), second, (last, num_last) = decoded
    if len(num_first) > 1:
        first, last = first[:, : -num_first[-1]], last[:, num_last[0] :]
    return torch.cat((first, second[0], last), dim=1)


def _view(images: torch.Tensor, scale: float, mirrored: bool, stride: int) -> torch.Tensor:
    view = images.flip(3) if mirrored else images
    if scale == 1.0:
        return view
    height, width = images.shape[2:]
    view = functional.interpolate(
        view, size=(int(height * scale), int(width * scale)), mode="bilinear", align_corners=False
    )
    padded_height, padded_width = (math.ceil(side * scale / stride) * stride for side in (height, width))
    return functional.pad(view, (0, padded_width - view.shape[3], 0, padded_height - view.shape[2]), value=GREY)
