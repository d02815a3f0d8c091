"""Crowds: regions of many objects without labels of their own, in which detections are ignored."""

from __future__ import annotations

import numpy as np
import torch

from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.models.boxes import cxcywh_to_xyxy


def crowds_of(index: ImageIndex) -> dict[int, torch.Tensor]:
    """Return for each image that has crowds, by its position in `index`: (k, 5) class, xyxy in the file's pixels."""
    found = {}
    for image in np.unique(index.crowds[:, 0]).astype(int).tolist():
        rows = torch.from_numpy(index.crowds[index.crowds[:, 0] == image, 1:])
        height, width = index.shapes_hw[image].tolist()
        boxes = cxcywh_to_xyxy(rows[:, 1:] * rows.new_tensor([width, height, width, height]))
        found[image] = torch.cat((rows[:, :1], boxes), dim=1)
    return found
