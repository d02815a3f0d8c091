"""The batches that loaders yield to training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from hpc_yolo.data.batch_memory import batch_memory
from hpc_yolo.data.labels import Labels

# ((height, width) of the file, ((ratio_h, ratio_w) to the image in the batch, (left, top) padding in pixels)).
ImageShape = tuple[tuple[int, int], tuple[tuple[float, float], tuple[float, float]]]


@dataclass(frozen=True)
class TrainingBatch:
    """This rank's shard of a global batch.

    Attributes:
        images: uint8 (n, 3, height, width) RGB, channels last in memory, as models compute.
        targets: float32 (m, 6) index of the image in the shard, class, cxcywh in [0, 1].
        replaced: images of the split that could not be read, and have been replaced.
    """

    images: torch.Tensor
    targets: torch.Tensor
    replaced: tuple[int, ...] = ()

    def pin_memory(self) -> TrainingBatch:
        """Return the batch in pinned memory; torch's loader calls this, so that the copy to a GPU can overlap."""
        return replace(self, images=self.images.pin_memory(), targets=self.targets.pin_memory())

    def images_on(self, device: torch.device) -> torch.Tensor:
        """Return the images of the batch on `device`; nothing waits for the copy."""
        return self.images.to(device, non_blocking=True)


@dataclass(frozen=True)
class ValidationBatch:
    """Images of one shape.

    Attributes:
        images: as in training.
        targets: as in training, relative to the padded image.
        indices: (n,) of the images in the index of the split.
        shapes: map the padded image back to the file.
        replaced: as in training.
    """

    images: torch.Tensor
    targets: torch.Tensor
    indices: torch.Tensor
    shapes: list[ImageShape]
    replaced: tuple[int, ...] = ()

    def pin_memory(self) -> ValidationBatch:
        """Return the batch with its images in pinned memory; torch's loader calls this."""
        return replace(self, images=self.images.pin_memory())


def empty_images(num_images: int, shape: tuple[int, int]) -> torch.Tensor:
    """Return images (n, 3, *shape) to be filled, channels last; in a loader worker in memory of its rank."""
    height, width = shape
    levels = batch_memory(num_images * height * width * 3)
    return levels.view(num_images, height, width, 3).permute(0, 3, 1, 2)


def rows_of(images: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Return an array (n, height, width, 3) in the memory of images that `empty_images` returned."""
    return images.permute(0, 2, 3, 1).numpy()


def stack_targets(labels: Sequence[Labels]) -> torch.Tensor:
    """Return the labels of all images with the index of their image in front, (m, 6)."""
    indexed = [
        np.concatenate([np.full((len(of_image), 1), index, dtype=np.float32), of_image], axis=1)
        for index, of_image in enumerate(labels)
    ]
    return torch.from_numpy(np.concatenate(indexed))
