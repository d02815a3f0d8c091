"""Anchors: their fit to the boxes of a dataset, and the search for better ones by clustering and evolution.

A box fits an anchor when neither of its sides is more than `max_ratio` times longer or shorter. Source of the constants
and of the search: YOLOv5 v7.0. Sizes are (n, 2) width, height in pixels of the training image.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from hpc_yolo.data.labels import ImageIndex

Sizes = npt.NDArray[np.float64]

GOOD_RECALL = 0.98  # anchors with at least this recall are kept
SIZE_JITTER = 0.1
MIN_SIDE_PIXELS = 2.0
TINY = 1e-9
CLUSTER_ATTEMPTS, CLUSTER_ITERATIONS = 10, 30
GENERATIONS = 1000
MUTATION_PROBABILITY, MUTATION_SIGMA = 0.9, 0.1
MIN_FACTOR, MAX_FACTOR = 0.3, 3.0
MAX_EVOLVED_SIZES = 20_000  # a sample this large distinguishes two sets of anchors; COCO's 850,000 take minutes


@dataclass(frozen=True)
class AnchorFit:
    """The fit of anchors to boxes.

    Attributes:
        best_possible_recall: fraction of boxes that fit at least one anchor.
        anchors_per_target: mean number of anchors that a box fits.
    """

    best_possible_recall: float
    anchors_per_target: float


def label_sizes(index: ImageIndex, imgsz: int, random: np.random.Generator) -> Sizes:
    """Return the sizes of all boxes on images whose longer side is `imgsz`, each scaled by up to a tenth."""
    shapes_wh = index.shapes_hw[:, ::-1].astype(np.float64)
    scales = random.uniform(1 - SIZE_JITTER, 1 + SIZE_JITTER, (len(shapes_wh), 1))
    images_wh = shapes_wh / shapes_wh.max(axis=1, keepdims=True) * imgsz * scales
    sizes: Sizes = index.labels.rows[:, 3:5] * np.repeat(images_wh, index.labels.counts, axis=0)
    return sizes


def anchor_fit(sizes: Sizes, anchors: Sizes, max_ratio: float) -> AnchorFit:
    """Return the fit of `anchors` (k, 2) in pixels to `sizes`."""
    agreement = _agreement(sizes, anchors)
    fits = agreement > 1 / max_ratio
    return AnchorFit(float(fits.any(axis=1).mean()), float(fits.sum(axis=1).mean()))


def search_fitness(sizes: Sizes, anchors: Sizes, max_ratio: float) -> float:
    """Return the objective of the search: the mean agreement of each box with its best anchor, 0 where none fits."""
    best = _agreement(sizes, anchors).max(axis=1)
    return float(np.where(best > 1 / max_ratio, best, 0).mean())


def find_anchors(sizes: Sizes, count: int, imgsz: int, max_ratio: float, random: np.random.Generator) -> Sizes:
    """Return anchors (count, 2) in pixels for `sizes`, the smallest first.

    The search starts from clusters of the sizes, or from random sizes with fewer boxes than anchors. Boxes with no side
    of at least two pixels are ignored.
    """
    large = sizes[(sizes >= MIN_SIDE_PIXELS).any(axis=1)]
    if len(large) > MAX_EVOLVED_SIZES:
        large = random.choice(large, MAX_EVOLVED_SIZES, replace=False)
    if len(large) >= count:
        anchors = _clusters(large, count, random)
    else:
        anchors = np.sort(random.random((count, 2)), axis=0) * imgsz
    anchors = _evolve(anchors, large, max_ratio, random)
    by_area: Sizes = anchors[anchors.prod(axis=1).argsort()]
    return by_area


def better_anchors(
    sizes: Sizes, anchors: Sizes, imgsz: int, max_ratio: float, random: np.random.Generator
) -> Sizes | None:
    """Return anchors (k, 2) that fit more of `sizes`; None where nearly all fit, or the search finds no better."""
    recall = anchor_fit(sizes, anchors, max_ratio).best_possible_recall
    if recall > GOOD_RECALL:
        return None
    found = find_anchors(sizes, len(anchors), imgsz, max_ratio, random)
    return found if anchor_fit(sizes, found, max_ratio).best_possible_recall > recall else None


def _agreement(sizes: Sizes, anchors: Sizes) -> Sizes:
    """Return (n, k) in (0, 1]: the lower of both sides' ratios, the smaller length over the larger."""
    widths, heights = sizes.clip(min=TINY).T[:, :, None] / anchors.clip(min=TINY).T[:, None]  # a side of 0 fits nothing
    agreement: Sizes = np.minimum(np.minimum(widths, 1 / widths), np.minimum(heights, 1 / heights))
    return agreement


def _clusters(sizes: Sizes, count: int, random: np.random.Generator) -> Sizes:
    spread = sizes.std(axis=0).clip(min=1e-9)
    cv2.setRNGSeed(int(random.integers(2**31)))
    until = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, CLUSTER_ITERATIONS, 1e-5)
    points = (sizes / spread).astype(np.float32)
    _, _, centres = cv2.kmeans(points, count, None, until, CLUSTER_ATTEMPTS, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
    anchors: Sizes = (centres.astype(np.float64) * spread).clip(min=MIN_SIDE_PIXELS)
    return anchors


def _evolve(anchors: Sizes, sizes: Sizes, max_ratio: float, random: np.random.Generator) -> Sizes:
    """Return the anchors after many small random changes, of which improvements are kept."""
    fitness = search_fitness(sizes, anchors, max_ratio) if len(sizes) else 0.0
    for _ in range(GENERATIONS if len(sizes) else 0):
        factors = np.ones(anchors.shape)
        while (factors == 1).all():
            chosen = random.random(anchors.shape) < MUTATION_PROBABILITY
            step = random.random() * random.standard_normal(anchors.shape) * MUTATION_SIGMA
            factors = (chosen * step + 1).clip(MIN_FACTOR, MAX_FACTOR)
        mutant = (anchors * factors).clip(min=MIN_SIDE_PIXELS)
        mutant_fitness = search_fitness(sizes, mutant, max_ratio)
        if mutant_fitness > fitness:
            anchors, fitness = mutant, mutant_fitness
    return anchors
