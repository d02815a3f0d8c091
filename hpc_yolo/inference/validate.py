"""Evaluation of a model on a split of a dataset: metrics, speeds, confusion matrix, COCO JSON, label files."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.core.files import atomic_writer, write_atomic
from hpc_yolo.core.text import distinct, shortened_name
from hpc_yolo.core.worker_count import worker_count
from hpc_yolo.data.coco_json import annotation_file
from hpc_yolo.data.dataset_format import COCO
from hpc_yolo.data.loader import ValidationLoader
from hpc_yolo.evaluation import coco
from hpc_yolo.evaluation.coco_truth import Annotations
from hpc_yolo.evaluation.confusion import ConfusionMatrix
from hpc_yolo.evaluation.crowds import crowds_of
from hpc_yolo.evaluation.evaluator import EvaluationSettings, ImageResult, Stopwatch, evaluate
from hpc_yolo.evaluation.metrics import DetectionMetrics
from hpc_yolo.inference.eval_target import EvalTarget
from hpc_yolo.models.boxes import xyxy_to_cxcywh
from hpc_yolo.plots.figures import write_confusion_chart
from hpc_yolo.runs.metrics import ClassMetrics, Metrics

SPEED_SETTINGS = EvaluationSettings(conf_threshold=0.25, iou_threshold=0.45)
PREDICTIONS = "predictions.json"
STUDY_SIZES = range(256, 1536 + 1, 128)

Recorder = Callable[[ImageResult], None]


class ValidationReport(msgspec.Struct, frozen=True, kw_only=True):
    """All metrics of one evaluation.

    Attributes:
        speed_ms: milliseconds an image of each stage.
        coco_error: the reason why `coco` is missing.
    """

    weights: str
    data: str
    split: str
    device: str
    imgsz: int
    batch: int
    conf_threshold: float
    iou_threshold: float
    max_detections: int
    num_images: int
    num_labels: int
    metrics: Metrics
    fitness: float
    speed_ms: dict[str, float]
    classes: list[ClassMetrics]
    coco: coco.OfficialNumbers | None = None
    coco_error: str | None = None


@dataclass(frozen=True)
class Outputs:
    """Files to write to `directory` besides the metrics.

    Attributes:
        predictions: write COCO JSON.
        annotations: COCO's annotations, for the official metrics.
        labels: write a label file for each image.
        scores: add a column of scores to the label files.
    """

    directory: Path
    predictions: bool = False
    annotations: Annotations | None = None
    labels: bool = False
    scores: bool = False


def round_up(imgsz: int, stride: int) -> int:
    """Return the least multiple of `stride` that is not below `imgsz` (pixels)."""
    return -(-imgsz // stride) * stride


def find_annotations(target: EvalTarget) -> Path | None:
    """Return annotations/instances_<split>.json beside the split or above it, as in COCO; None if there is none.

    Those of a dataset in COCO's format are the file of the split itself.
    """
    sources = target.dataset.split(target.split)
    if len(sources) != 1:
        return None
    if target.dataset.format == COCO:
        return annotation_file(sources[0])
    name = f"instances_{sources[0].stem if sources[0].is_file() else sources[0].name}.json"
    paths = [directory / "annotations" / name for directory in (sources[0].parent, sources[0].parent.parent)]
    return next((path for path in paths if path.is_file()), None)


def validate(
    target: EvalTarget,
    *,
    imgsz: int,
    batch: int,
    workers: int,
    settings: EvaluationSettings,
    square: bool = False,
    outputs: Outputs | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> ValidationReport:
    """Evaluate `target` and return its metrics.

    Args:
        imgsz: longer side of an image in pixels, a multiple of the model's stride.
        square: pad all images to a square instead of to the shape of their group.
        outputs: what to write; None writes nothing.
        on_progress: called with (images done, all images).

    Raises:
        DataError: an image cannot be read any more.
    """
    keys = _keys(target, outputs)
    images = keys.image_ids
    crowds = crowds_of(target.index)
    if outputs is not None and outputs.annotations is not None:
        known = outputs.annotations.crowds
        crowds |= {number: known[image] for number, image in enumerate(images) if image in known}
    confusion, stopwatch = ConfusionMatrix(target.dataset.num_classes), Stopwatch(target.device)
    _warm_up(target, imgsz)
    with _recorders(target, outputs, keys) as recorders:
        recorders += [_confusion_recorder(confusion), _progress_recorder(on_progress, len(images))]
        result = evaluate(
            target.model,
            _loader(target, imgsz, batch, workers, square=square),
            device=target.device,
            gather_arrays=lambda arrays: [arrays],
            settings=settings,
            crowds=crowds,
            on_image=_all_of(recorders),
            stopwatch=stopwatch,
        )
    report = _report(target, result.metrics, settings, stopwatch, imgsz=imgsz, batch=batch)
    return report if outputs is None else _write(report, outputs, confusion, list(target.dataset.names))


def _loader(target: EvalTarget, imgsz: int, batch: int, workers: int, *, square: bool) -> ValidationLoader:
    return ValidationLoader(
        target.index,
        imgsz=imgsz,
        batch=batch,
        stride=target.stride,
        square=square,
        rank=0,
        world_size=1,
        workers=worker_count(workers, len(os.sched_getaffinity(0)), is_on_cpu=target.device.type == "cpu"),
    )


def _warm_up(target: EvalTarget, imgsz: int) -> None:
    """Run the model once on a GPU, so that the selection of kernels is not timed."""
    if target.device.type == "cuda":
        dtype = next(target.model.parameters()).dtype
        with torch.no_grad():
            target.model(torch.zeros(1, 3, imgsz, imgsz, device=target.device, dtype=dtype))


def _keys(target: EvalTarget, outputs: Outputs | None) -> coco.CocoKeys:
    if outputs is not None and outputs.annotations is not None:
        return outputs.annotations.keys
    return coco.keys_of_names(target.dataset.names, target.index.paths)


@contextlib.contextmanager
def _recorders(target: EvalTarget, outputs: Outputs | None, keys: coco.CocoKeys) -> Iterator[list[Recorder]]:
    """Return functions that write the detections of an image; the JSON is published when the block ends."""
    recorders: list[Recorder] = []
    if outputs is not None and outputs.labels:
        recorders.append(_label_writer(outputs.directory / "labels", target.index.paths, with_scores=outputs.scores))
    if outputs is None or not outputs.predictions:
        yield recorders
        return
    with atomic_writer(outputs.directory / PREDICTIONS) as file:
        writer = coco.PredictionsWriter(file)

        def add_predictions(result: ImageResult) -> None:
            writer.add(coco.predictions(result.detections, keys.image_ids[result.index], keys))

        recorders.append(add_predictions)
        yield recorders
        writer.close()


def _all_of(recorders: list[Recorder]) -> Recorder:
    def record_all(result: ImageResult) -> None:
        for record in recorders:
            record(result)

    return record_all


def _confusion_recorder(confusion: ConfusionMatrix) -> Recorder:
    return lambda result: confusion.add(result.detections, result.labels)


def _progress_recorder(on_progress: Callable[[int, int], None], total: int) -> Recorder:
    done = itertools.count(1)
    return lambda _result: on_progress(next(done), total)


def _label_writer(directory: Path, paths: Sequence[str], *, with_scores: bool) -> Recorder:
    """Return a function that writes the detections of an image to a file: class, cxcywh in [0, 1], optional score."""
    directory.mkdir(mode=0o700, exist_ok=True)
    names = distinct((shortened_name(Path(path).stem) for path in paths), mark="-")

    def write(result: ImageResult) -> None:
        height, width = result.shape_hw
        boxes = xyxy_to_cxcywh(result.detections[:, :4]) / torch.tensor([width, height, width, height])
        rows = torch.cat((result.detections[:, 5:], boxes, result.detections[:, 4:5]), dim=1)
        lines = (" ".join(f"{value:g}" for value in row) for row in rows[:, : 6 if with_scores else 5].tolist())
        (directory / f"{names[result.index]}.txt").write_text("".join(f"{line}\n" for line in lines))

    return write


def _report(
    target: EvalTarget,
    metrics: DetectionMetrics,
    settings: EvaluationSettings,
    stopwatch: Stopwatch,
    *,
    imgsz: int,
    batch: int,
) -> ValidationReport:
    num_images = target.index.num_images
    return ValidationReport(
        weights=str(target.file.path),
        data=str(target.dataset.source),
        split=target.split,
        device=torch.cuda.get_device_name(target.device) if target.device.type == "cuda" else "cpu",
        imgsz=imgsz,
        batch=batch,
        conf_threshold=settings.conf_threshold,
        iou_threshold=settings.iou_threshold,
        max_detections=settings.max_detections,
        num_images=num_images,
        num_labels=sum(row.num_labels for row in metrics.per_class),
        metrics=metrics.mean,
        fitness=metrics.mean.fitness,
        speed_ms={stage: seconds * 1000 / num_images for stage, seconds in stopwatch.seconds.items()},
        classes=metrics.named(target.dataset.names),
    )


def _write(
    report: ValidationReport,
    outputs: Outputs,
    confusion: ConfusionMatrix,
    names: list[str],
) -> ValidationReport:
    """Write the report with the official metrics, or the reason why there are none, and return it."""
    if outputs.predictions and (truth := outputs.annotations) is not None:
        predictions = outputs.directory / PREDICTIONS
        try:
            found = coco.official_numbers(truth.dataset, predictions, truth.known, truth.keys.category_ids)
            report = msgspec.structs.replace(report, coco=found)
        except HpcYoloError as error:
            report = msgspec.structs.replace(report, coco_error=f"{truth.path}: {error}")
    write_atomic(outputs.directory / "metrics.json", msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    write_atomic(outputs.directory / "confusion_matrix.json", _confusion_json(confusion, names))
    write_confusion_chart(outputs.directory / "confusion_matrix.png", confusion.counts, names)
    return report


def write_study(directory: Path, reports: list[ValidationReport]) -> None:
    """Write a table of metrics and speeds by image size as CSV, and all metrics as JSON."""
    lines = [",".join(("imgsz", *Metrics.__struct_fields__, *(f"{stage}_ms" for stage in reports[0].speed_ms)))]
    for report in reports:
        values = (report.imgsz, *report.metrics.values(), *report.speed_ms.values())
        lines.append(",".join(f"{value:.6g}" for value in values))
    write_atomic(directory / "study.csv", "\n".join(lines) + "\n")
    write_atomic(directory / "study.json", msgspec.json.format(msgspec.json.encode(reports)) + b"\n")


def _confusion_json(confusion: ConfusionMatrix, names: list[str]) -> bytes:
    rows = {"classes": [*names, "background"], "rows_found_columns_there": confusion.counts.tolist()}
    return msgspec.json.encode(rows) + b"\n"
