"""What the data path hands to training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

# ((height, width) of the file, ((ratio_h, ratio_w) to the image in the batch, (left, top) padding in pixels)).
ImageShape = tuple[tuple[int, int], tuple[tuple[float, float], tuple[float, float]]]


@dataclass(frozen=True)
class TrainingBatch:
    """This rank's share of a global batch.

    images: uint8 (share, 3, S, S) RGB. targets: float32 (n, 6) image in the share, class, cxcywh in [0, 1].
    indices: (share,) of the images.
    """

    images: torch.Tensor
    targets: torch.Tensor
    indices: torch.Tensor

    def pin_memory(self) -> TrainingBatch:
        """Called by torch's loader, so that the copy to a GPU can overlap."""
        return replace(self, images=self.images.pin_memory(), targets=self.targets.pin_memory())


@dataclass(frozen=True)
class ValidationBatch:
    """Images of one shape. `targets` as in training, relative to the padded image; `shapes` lead back to files."""

    images: torch.Tensor
    targets: torch.Tensor
    indices: torch.Tensor
    shapes: list[ImageShape]

    def pin_memory(self) -> ValidationBatch:
        """Called by torch's loader, so that the copy to a GPU can overlap."""
        return replace(self, images=self.images.pin_memory())
