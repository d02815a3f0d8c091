"""Carry out `hpc-yolo val`. Imports torch, so `val.py` imports it when the command runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import click

from hpc_yolo.cli.metrics import print_report, print_study
from hpc_yolo.cli.weights_argument import find_weights
from hpc_yolo.core.errors import DataError, RunError, SpecError
from hpc_yolo.core.package_data import shipped_dataset
from hpc_yolo.data.dataset_source import DatasetSource, readable_dataset
from hpc_yolo.evaluation import coco
from hpc_yolo.evaluation.coco_truth import Annotations, read_annotations
from hpc_yolo.evaluation.evaluator import EvaluationSettings
from hpc_yolo.inference.eval_target import EvalTarget, ResolvedWeights, load_eval_target
from hpc_yolo.inference.model import DEFAULT_IMGSZ
from hpc_yolo.inference.result_dirs import results_directory
from hpc_yolo.inference.validate import (
    PREDICTIONS,
    SPEED_SETTINGS,
    STUDY_SIZES,
    Outputs,
    ValidationReport,
    find_annotations,
    round_up,
    validate,
    write_study,
)
from hpc_yolo.monitor.progress import counting

CONF_THRESHOLD = EvaluationSettings.conf_threshold  # of training and of published metrics


@dataclass(frozen=True, kw_only=True)
class ValOptions:
    """The options of `hpc-yolo val`, under the names that click gives them."""

    batch_size: int
    imgsz: int | None
    conf_thres: float
    iou_thres: float
    max_det: int
    task: str
    device: str
    workers: int
    single_cls: bool
    augment: bool
    verbose: bool
    save_txt: bool
    save_conf: bool
    save_json: bool
    annotations: Path | None
    half: bool
    project: Path
    name: str
    exist_ok: bool
    as_json: bool


def run_val(run: Path | None, weights: str | None, data: Path | None, split: str, options: ValOptions) -> None:
    """Evaluate the model of `run` or `weights` on `split` of the dataset `data`, by default that of the run.

    Raises:
        HpcYoloError: the weights, the dataset or an option cannot be used.
    """
    resolved = find_weights(run, weights)
    if data is not None and readable_dataset(str(data)) is None:
        data = shipped_dataset(str(data)) or data
    source = data or resolved.data
    if source is None:
        raise SpecError("--data is missing", hint=f"the dataset YAML on which {resolved.weights} is evaluated")
    target = _load_target(resolved, source, split, options)
    settings = target.file.applied_settings(_settings(target, options), _warn)
    if settings.conf_threshold > CONF_THRESHOLD and options.task != "speed":
        _warn(
            f"confidence threshold {settings.conf_threshold:g}: mAP lacks the detections below it, and is often higher "
            f"than at {CONF_THRESHOLD:g}; compare it only with mAP at the same threshold"
        )
    if options.task == "study":
        _study(target, settings, options)
        return
    imgsz = _image_size(target, resolved, options.imgsz)
    outputs = _outputs(target, options)
    square = options.task == "speed" or target.file.fixed_hw is not None
    report = _validate(target, imgsz, settings, options, outputs, square=square)
    print_report(report, outputs.directory, verbose=options.verbose, as_json=options.as_json)
    if report.coco_error is not None:
        message = f"no official COCO metrics: {report.coco_error}"
        if options.annotations is not None:
            raise DataError(message)
        _warn(message)


def _settings(target: EvalTarget, options: ValOptions) -> EvaluationSettings:
    if options.task == "speed":
        return replace(SPEED_SETTINGS, single_cls=target.dataset.single_cls)
    return EvaluationSettings(
        conf_threshold=options.conf_thres,
        iou_threshold=options.iou_thres,
        max_detections=options.max_det,
        single_cls=target.dataset.single_cls,
    )


def _load_target(resolved: ResolvedWeights, data: DatasetSource, split: str, options: ValOptions) -> EvalTarget:
    with counting("reading images", None) as on_progress:
        return load_eval_target(
            resolved.weights,
            data,
            split,
            device=options.device,
            half=options.half,
            augment=options.augment,
            single_cls=options.single_cls or resolved.single_cls,
            on_message=_warn,
            on_progress=on_progress,
            needs_labels=not (options.save_json or options.save_txt or options.annotations),
        )


def _image_size(target: EvalTarget, resolved: ResolvedWeights, requested: int | None) -> int:
    """Return the longer side of images in pixels: as requested, else as exported or trained.

    Raises:
        SpecError: an exported file takes another size, or no squares.
    """
    file = target.file
    file.require_size((requested, requested) if requested is not None else None)
    if file.fixed_hw is None:
        return requested or resolved.imgsz or file.imgsz or DEFAULT_IMGSZ
    height, width = file.fixed_hw
    if height != width:
        raise SpecError(
            f"{file.path}: was exported for {height} x {width} px (height x width), and val needs a square",
            hint="export it again with one --imgsz, or with --dynamic",
        )
    return height


def _outputs(target: EvalTarget, options: ValOptions) -> Outputs:
    """Return where and what to write. Files that may be unusable are read before the evaluation."""
    annotations = _annotations(target, options)
    return Outputs(
        directory=results_directory(options.project, options.name, exist_ok=options.exist_ok),
        predictions=options.save_json or annotations is not None,
        annotations=annotations,
        labels=options.save_txt,
        scores=options.save_conf,
    )


def _annotations(target: EvalTarget, options: ValOptions) -> Annotations | None:
    """Return the COCO annotations of --annotations, or those that --save-json finds beside the split.

    Raises:
        DataError: those of --annotations cannot be used; those that were found are skipped with a message.
        SpecError: --annotations without pycocotools. Those that were found are read, for the ids in the JSON.
    """
    path = options.annotations or (find_annotations(target) if options.save_json else None)
    try:
        if options.annotations is not None and not coco.has_library():
            raise SpecError("--annotations: the official COCO metrics need pycocotools", hint=coco.INSTALL)
        if path is not None:
            found = read_annotations(path, target.dataset.names, target.index.paths)
            for message in found.messages:
                _warn(message)
            return found
    except (DataError, SpecError) as error:
        if options.annotations is not None:
            raise
        _warn(f"no official COCO metrics: {error}")
    if options.save_json and (named_alike := coco.named_alike(target.index.paths)):
        _warn(f"{PREDICTIONS}: {len(named_alike)} images of equal names have paths as ids, such as {named_alike[0]}")
    return None


def _validate(
    target: EvalTarget,
    imgsz: int,
    settings: EvaluationSettings,
    options: ValOptions,
    outputs: Outputs | None,
    *,
    square: bool = False,
) -> ValidationReport:
    rounded = round_up(imgsz, target.stride)
    if rounded != imgsz:
        _warn(f"--imgsz {imgsz} is not a multiple of {target.stride}, the largest stride of the model; using {rounded}")
    try:
        with counting(f"evaluating at {rounded} px", target.index.num_images) as on_progress:
            return validate(
                target,
                imgsz=rounded,
                batch=options.batch_size,
                workers=options.workers,
                settings=settings,
                square=square,
                outputs=outputs,
                on_progress=on_progress,
            )
    except OSError as error:
        path = error.filename or (outputs.directory if outputs is not None else "a temporary file")
        raise RunError(
            f"{path}: cannot be written: {error.strerror or error}", hint="give another directory with --project DIR"
        ) from error


def _study(target: EvalTarget, settings: EvaluationSettings, options: ValOptions) -> None:
    """Evaluate once for each image size.

    Raises:
        SpecError: the model was exported for one size.
    """
    if target.file.fixed_hw is not None:
        raise SpecError(
            f"--task study: evaluates at many sizes, and {target.file.path} was exported for one",
            hint="export it again with --dynamic",
        )
    directory = results_directory(options.project, options.name, exist_ok=options.exist_ok)
    reports = [_validate(target, imgsz, settings, options, None) for imgsz in STUDY_SIZES]
    write_study(directory, reports)
    print_study(reports, directory, as_json=options.as_json)


def _warn(message: str) -> None:
    click.echo(message, err=True)
