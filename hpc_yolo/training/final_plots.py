"""Charts and images of a finished run. Apart from `final_evaluation`: only rank 0 loads matplotlib, after training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.images import read_image
from hpc_yolo.models.boxes import cxcywh_to_xyxy
from hpc_yolo.plots.figures import write_charts, write_confusion_chart, write_label_charts
from hpc_yolo.plots.images import LabelledImage, write_mosaics, write_pairs
from hpc_yolo.plots.labels import LabelStatistics
from hpc_yolo.plots.results import Results, results_charts
from hpc_yolo.plots.training import training_charts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.journal import read_events
from hpc_yolo.training.context import TrainingContext

NUM_MOSAICS = 8
MAX_DRAWN_CLASSES = 100  # in a confusion matrix


def draw_training(context: TrainingContext, run: RunDirectory, labels: LabelStatistics) -> None:
    """Draw curves, label statistics and the first training images."""
    write_charts(run.results / "curves.png", training_charts([(run.name, read_events(run.journal))]))
    write_label_charts(run.results / "labels.png", labels)
    mosaics = []
    for pixels, rows in context.training.samples(NUM_MOSAICS):
        height, width = pixels.shape[1:]
        boxes = cxcywh_to_xyxy(torch.from_numpy(rows[:, 1:] * np.array([width, height, width, height]))).numpy()
        image = np.ascontiguousarray(pixels[::-1].transpose(1, 2, 0))
        mosaics.append(LabelledImage(image, labelled_rows(boxes, rows[:, 0])))
    write_mosaics(run.mosaics, mosaics, context.names)


def draw_evaluation(
    context: TrainingContext,
    run: RunDirectory,
    results: Results,
    confusions: np.ndarray,
    rows: np.ndarray,
    images: Sequence[int],
) -> None:
    """Draw curves over recall and confidence, the confusion matrix, and images with labels and detections.

    Images that cannot be read any more are left out.

    Args:
        rows: (n, 7) image, xyxy in its pixels, score, class.
        images: those that are drawn, by their index.
    """
    if results.classes:
        write_charts(run.results / "evaluation.png", results_charts([(run.name, 0, results)]))
    if len(context.names) <= MAX_DRAWN_CLASSES:
        write_confusion_chart(run.results / "confusion_matrix.png", confusions, context.names)
    index, pairs = context.validation.index, []
    for image in images:
        try:
            pixels = read_image(index.paths[image])
        except DataError:  # damaged since the scan: another one was evaluated for it
            continue
        height, width = pixels.shape[:2]
        labels = index.labels[image]
        boxes = cxcywh_to_xyxy(torch.from_numpy(labels[:, 1:] * np.array([width, height, width, height]))).numpy()
        found = rows[rows[:, 0] == image][:, 1:]
        pairs.append((LabelledImage(pixels, labelled_rows(boxes, labels[:, 0])), LabelledImage(pixels, found)))
    if pairs:
        write_pairs(run.pairs, pairs, context.names)


def labelled_rows(boxes_xyxy: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return labels in the form of detections with a score of 1."""
    return np.column_stack([boxes_xyxy, np.ones(len(boxes_xyxy)), classes]).reshape(-1, 6)
