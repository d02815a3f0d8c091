"""Orders of images, shards and image sizes: pure functions of (seed, epoch, step).

A position in training is thus one number. The order of an epoch is cut into global batches, each of which is split
evenly over the ranks. Neither the number of ranks nor of workers changes what the model sees.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from hpc_yolo.data.flat import FlatLabels

Indices = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]

ORDER_STREAM = 0  # of an epoch as a whole: index 0 is its order, index 1 + n the image size of its step n
SAMPLE_STREAM = 1
_WORD = 2**64
WINDOW = 16  # positions of the order before an image, from which partners of its mosaic can be drawn


def generator(seed: int, epoch: int, index: int, stream: int) -> np.random.Generator:
    """Return the generator of one sample of one epoch; it is the same in every process at any time."""
    key = np.array([(seed * 2 + stream) % _WORD, (epoch * 2**40 + index) % _WORD], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def epoch_order(num_images: int, seed: int, epoch: int, weights: Weights | None = None) -> Indices:
    """Return all images once, in the order of `epoch`; with `weights` (num_images,), as many draws by weight."""
    random = generator(seed, epoch, 0, ORDER_STREAM)
    if weights is None or weights.sum() == 0:
        return random.permutation(num_images)
    return random.choice(num_images, num_images, p=weights / weights.sum())


def image_weights(labels: FlatLabels, class_maps: Weights) -> Weights:
    """Return (images,): the sum of the weights of an image's objects, high for rare classes and those of a low mAP.

    Args:
        class_maps: (classes,) mAP of each class, in [0, 1].
    """
    classes = labels.rows[:, 0].astype(np.int64)
    rarity = 1 / np.bincount(classes, minlength=len(class_maps)).clip(min=1)
    per_class = rarity / rarity.sum() * (1 - class_maps) ** 2
    return np.array([per_class[classes[start:stop]].sum() for start, stop in pairwise(labels.bounds)])


def scaled_imgsz(seed: int, epoch: int, step: int, imgsz: int, stride: int) -> int:
    """Return the longer side in pixels of a global batch in multi-scale training: half to one and a half `imgsz`."""
    random = generator(seed, epoch, 1 + step, ORDER_STREAM)
    smallest = max(imgsz // 2, stride)
    return int(random.integers(smallest, imgsz * 3 // 2 + stride)) // stride * stride


def largest_imgsz(imgsz: int, stride: int) -> int:
    """Return the longest side that `scaled_imgsz` draws."""
    return (imgsz * 3 // 2 + stride - 1) // stride * stride


def steps_per_epoch(num_images: int, batch: int) -> int:
    """Return the number of global batches in an epoch; the last is filled up from the beginning of the order."""
    return -(-num_images // batch)


def global_batch(order: Indices, batch: int, step: int) -> Indices:
    """Return the images (batch,) of one step over all ranks."""
    return order.take(np.arange(step * batch, (step + 1) * batch), mode="wrap")


def windows(order: Indices, positions: Indices) -> Indices:
    """Return the images (n, WINDOW) at the positions of an order before each of `positions`, the nearest first.

    Before its beginning is its end.
    """
    return order.take(positions[:, None] - np.arange(1, WINDOW + 1), mode="wrap")


def rect_order(order: Indices, batch: int) -> Indices:
    """Return the order of `rect_plan` filled up to whole batches from its end, where images have similar shapes."""
    positions = np.arange(steps_per_epoch(len(order), batch) * batch)
    backwards = (2 * len(order) - 1 - positions) % len(order)
    return order[np.where(positions < len(order), positions, backwards)]


def rank_shard(images: Indices, rank: int, world_size: int) -> Indices:
    """Return a rank's shard (batch / world size,) of a global batch."""
    size = len(images) // world_size
    return images[rank * size : (rank + 1) * size]


def rect_plan(
    shapes_hw: npt.NDArray[np.int32], *, batch: int, imgsz: int, stride: int, pad: float
) -> tuple[Indices, list[tuple[int, int]]]:
    """Return (images by aspect ratio, for each group of `batch` the least (height, width) that holds its images).

    Args:
        pad: fraction of a stride added to each side.
    """
    aspects = shapes_hw[:, 0] / shapes_hw[:, 1]
    order = aspects.argsort(kind="stable")
    shapes = []
    for start in range(0, len(order), batch):
        group = aspects[order[start : start + batch]]
        tall, wide = 1.0, 1.0
        if group.max() < 1:
            tall = group.max()
        elif group.min() > 1:
            wide = 1 / group.min()
        height, width = (int(np.ceil(side * imgsz / stride + pad)) * stride for side in (tall, wide))
        shapes.append((height, width))
    return order, shapes
