"""The evaluation after the last step: the best model on the validation images, with the files for the report.

All ranks evaluate their shard; rank 0 draws and writes, into `results/` of the run directory. Training is finished
and saved by then: a signal or a full disk affects only these files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import nn

from hpc_yolo.checkpoint import load_model
from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.core.files import make_directory, read_struct, write_struct
from hpc_yolo.data.batch import ValidationBatch
from hpc_yolo.distributed.world import World
from hpc_yolo.evaluation.confusion import CONF_THRESHOLD, ConfusionMatrix
from hpc_yolo.evaluation.evaluator import Arrays, EvaluationResult, ImageResult, evaluate
from hpc_yolo.plots.labels import label_statistics
from hpc_yolo.plots.results import ClassResults, Results
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, ResultsWritten, WarningRaised
from hpc_yolo.training.aside import with_weights
from hpc_yolo.training.context import TrainingContext

NUM_PAIRS = 8
CONFIDENCE_STRIDE = 9  # of 1000 confidences 112 are kept, the first and the last among them
DECIMALS = 4


class Recorder:
    """Recorder of the confusions of one rank's images, and of the detections on a few of them."""

    def __init__(self, num_classes: int, num_images: int) -> None:
        self._confusion = ConfusionMatrix(num_classes)
        self._shown = set(shown_images(num_images))
        self._rows: list[torch.Tensor] = []

    def record(self, result: ImageResult) -> None:
        """Record one image."""
        self._confusion.add(result.detections, result.labels)
        if result.index in self._shown:
            sure = result.detections[result.detections[:, 4] > CONF_THRESHOLD]
            self._rows.append(torch.cat((torch.full((len(sure), 1), result.index), sure), dim=1).double())

    def arrays(self) -> Arrays:
        """Return the counts of confusions, and rows of image, xyxy, score, class."""
        rows = torch.cat([torch.zeros(0, 7, dtype=torch.float64), *self._rows])
        return {"confusions": self._confusion.counts, "rows": rows.numpy()}


def shown_images(num_images: int) -> list[int]:
    """Return the indices of a few images, evenly from all."""
    return sorted({round(position) for position in np.linspace(0, num_images - 1, min(NUM_PAIRS, num_images))})


@dataclass(frozen=True)
class FinalEvaluation:
    """Inputs of the evaluation after the last step.

    Attributes:
        stoppable: yields the batches of a loader, and raises if a signal was received.
        emit: writes an event to the journal.
    """

    context: TrainingContext
    world: World
    run: RunDirectory
    stoppable: Callable[[Iterator[ValidationBatch | None]], Iterator[ValidationBatch]]
    emit: Callable[[AnyEvent], None]


def write_results(final: FinalEvaluation) -> None:
    """Evaluate the best model and write the files for the report; all ranks call this after training."""
    context, world, run = final.context, final.world, final.run
    started_s = time.perf_counter()
    model, epoch = best_model(final)
    if model is None:
        return
    recorder = Recorder(len(context.names), context.validation.index.num_images)
    with context.autocast(world.device):
        result = evaluate(
            model,
            final.stoppable(context.validation.slots()),
            device=world.device,
            gather_arrays=world.gather_arrays,
            on_image=recorder.record,
        )
    shards = world.gather_arrays(recorder.arrays())
    if not world.is_main:
        return

    try:
        make_directory(run.results)
        confusions = sum((shard["confusions"] for shard in shards), start=np.zeros_like(shards[0]["confusions"]))
        found = results_of(context, result, confusions, epoch)
        indexes = context.training.index, context.validation.index
        labels = label_statistics(context.names, context.train.imgsz, *indexes)
        write_struct(run.labels, labels)
        if context.train.plots:
            from hpc_yolo.training.final_plots import draw_evaluation, draw_training  # imports matplotlib: 0.3 s

            draw_training(context, run, labels)
            rows = np.concatenate([shard["rows"] for shard in shards])
            draw_evaluation(context, run, found, confusions, rows, shown_images(context.validation.index.num_images))
        write_struct(run.evaluation, found)  # last: where it exists, all exist
    except (OSError, HpcYoloError, cv2.error) as error:
        final.emit(WarningRaised(message=f"{run.results}: plots and images are not complete: {error}"))
        return
    seconds = time.perf_counter() - started_s
    final.emit(ResultsWritten(epoch=epoch, step=context.position.step, path=run.results.name, seconds=seconds))


def best_model(final: FinalEvaluation) -> tuple[nn.Module | None, int]:
    """Return (the averaged model of the best evaluation, its epoch); the same on every rank.

    None if its results exist already. If the file of the best cannot be read, the model of the last epoch.
    """
    context, world, run = final.context, final.world, final.run
    last, best = context.position.finished_epochs - 1, context.evaluations.best_epoch
    tensors: dict[str, torch.Tensor] = {}
    is_done = False
    if world.is_main:
        try:
            before = read_struct(run.evaluation, Results)
            is_done = before is not None and before.step == context.position.step
            if not is_done and 0 <= best < last:
                tensors, _ = load_model(run.best)
        except (OSError, HpcYoloError) as error:
            final.emit(WarningRaised(message=f"images and curves are those of the last epoch: {error}"))
    # All ranks follow what rank 0 found in the file system.
    is_done, is_read = (bool(number) for number in world.gather_numbers([is_done, bool(tensors)])[0])
    if is_done:
        return None, best
    if not is_read:
        return context.ema.model, last
    return with_weights(context.ema.model, tensors, world), best


def results_of(context: TrainingContext, result: EvaluationResult, confusions: np.ndarray, epoch: int) -> Results:
    """Return the evaluation in the form of its file."""
    metrics, names = result.metrics, context.names
    classes = []
    for number, row in enumerate(metrics.per_class if metrics.curves is not None else ()):
        assert metrics.curves is not None
        classes.append(
            ClassResults(
                name=names[row.class_index],
                num_labels=row.num_labels,
                metrics=row.metrics,
                precision=metrics.curves.precision[number, ::CONFIDENCE_STRIDE].round(DECIMALS).tolist(),
                recall=metrics.curves.recall[number, ::CONFIDENCE_STRIDE].round(DECIMALS).tolist(),
                precision_at_recall=metrics.curves.precision_at_recall[number].round(DECIMALS).tolist(),
            )
        )
    pairs = np.argwhere(confusions)
    return Results(
        epoch=epoch,
        step=context.position.step,
        num_images=result.num_images,
        metrics=metrics.mean,
        names=list(names),
        classes=classes,
        confusions=[(int(row), int(column), int(confusions[row, column])) for row, column in pairs],
    )
