"""`hpc-yolo val`: how good a network is, by class, and how fast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc_yolo.cli.metrics import print_report, print_study
from hpc_yolo.cli.prefixes import GuideCommand
from hpc_yolo.cli.weights_argument import find_weights
from hpc_yolo.core.errors import DataError, RunError, SpecError
from hpc_yolo.core.package_data import shipped_dataset

if TYPE_CHECKING:
    from hpc_yolo.evaluation.coco_truth import Annotations
    from hpc_yolo.evaluation.evaluator import EvaluationSettings
    from hpc_yolo.inference.eval_target import Named, Subject
    from hpc_yolo.inference.validate import Outputs, ValidationReport

SPLIT_OF_TASK = {"train": "train", "val": "val", "test": "test", "speed": "val", "study": "val"}
DEFAULT_IMGSZ = 640
SHARE = click.FloatRange(0, 1)
POSITIVE = click.IntRange(1)


@click.command(cls=GuideCommand)
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--weights", metavar="FILE", help="A .safetensors, .pt or exported file, a published name, a run.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The dataset YAML, a file or a shipped name; that of the run unless given.",
)
@click.option("--batch-size", default=32, show_default=True, type=POSITIVE, help="Images of a batch.")
@click.option(
    "--imgsz", "--img", "--img-size", type=POSITIVE, help="Longer side in pixels; as trained, or 640, unless said."
)
@click.option("--conf-thres", default=0.001, show_default=True, type=SHARE, help="Least confidence.")
@click.option("--iou-thres", default=0.6, show_default=True, type=SHARE, help="Overlap that suppresses.")
@click.option("--max-det", default=300, show_default=True, type=POSITIVE, help="Most detections of an image.")
@click.option(
    "--task",
    default="val",
    show_default=True,
    type=click.Choice(list(SPLIT_OF_TASK)),
    help="The split; speed: squares at 0.25 and 0.45; study: image sizes from 256 to 1536.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, or the number of a GPU.")
@click.option("--workers", default=8, show_default=True, type=click.IntRange(0), help="Loader processes.")
@click.option("--single-cls", is_flag=True, help="Take all classes for one.")
@click.option("--augment", is_flag=True, help="Look at three sizes, once mirrored: slower, finds a little more.")
@click.option("--verbose", is_flag=True, help="Figures of each class also where there are many.")
@click.option("--save-txt", is_flag=True, help="Write detections as label files.")
@click.option("--save-conf", is_flag=True, help="With --save-txt: confidences in a sixth column.")
@click.option("--save-hybrid", is_flag=True, hidden=True)
@click.option("--save-json", is_flag=True, help="Write COCO's JSON; official numbers where its annotations are.")
@click.option(
    "--annotations",
    type=click.Path(path_type=Path),
    help="COCO's file of the truth for the official numbers; found by itself in <data>/annotations.",
)
@click.option("--half", is_flag=True, help="Half precision, on a GPU.")
@click.option("--project", default="runs/val", show_default=True, type=click.Path(path_type=Path), help="Directory.")
@click.option("--name", default="exp", show_default=True, help="Directory inside it; exp2 where exp is there.")
@click.option("--exist-ok", is_flag=True, help="Write into <project>/<name> even if it is there.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON, for scripts.")
def val(run: Path | None, weights: str | None, data: Path | None, **options: Any) -> None:
    """Evaluate the best model of RUN (a run directory or a checkpoint), or --weights on --data.

    \b
    hpc-yolo val runs/shapes                                   the run's own dataset and image size
    hpc-yolo val --weights yolov5s.pt --data coco.yaml --img 640 --iou 0.65 --save-json
    hpc-yolo val runs/shapes --task test --verbose

    Figures, the confusion matrix and what is saved go to <project>/<name>. Options may be shortened: --batch, --conf.
    """
    from hpc_yolo.evaluation.evaluator import EvaluationSettings
    from hpc_yolo.inference.validate import SPEED_SETTINGS

    if options["save_hybrid"]:
        raise click.UsageError("--save-hybrid: labels mixed into detections would count as found; there is --save-txt")
    if options["save_conf"] and not options["save_txt"]:
        raise click.UsageError("--save-conf adds a column to what --save-txt writes; give both")
    named = find_weights(run, weights)
    if data is not None and not data.is_file():
        data = shipped_dataset(str(data)) or data
    if (data := data or named.data) is None:
        raise SpecError("--data is missing", hint=f"the dataset YAML that {named.weights} is tried on")
    subject = _prepare(named, data, options)
    settings = EvaluationSettings(
        conf_threshold=options["conf_thres"],
        iou_threshold=options["iou_thres"],
        max_detections=options["max_det"],
        single_cls=subject.dataset.single_cls,
    )
    if options["task"] == "study":
        if subject.file.fixed_hw is not None:
            raise SpecError(
                f"--task study: evaluates at many sizes, and {named.weights} was exported for one",
                hint="export it again with --dynamic",
            )
        _study(subject, settings, options)
        return
    imgsz = _imgsz(subject, named, options["imgsz"])
    outputs = _outputs(subject, options)
    is_speed = options["task"] == "speed"
    square = is_speed or subject.file.fixed_hw is not None
    report = _validate(subject, imgsz, SPEED_SETTINGS if is_speed else settings, options, outputs, square=square)
    print_report(report, outputs.directory, verbose=options["verbose"], as_json=options["as_json"])
    if report.coco_error is not None:
        message = f"no official COCO numbers: {report.coco_error}"
        if options["annotations"] is not None:
            raise DataError(message)
        _tell(message)


def _imgsz(subject: Subject, named: Named, asked: int | None) -> int:
    """Return the longer side of images in pixels: as asked, else as exported or trained.

    Raises:
        SpecError: an exported file takes another size, or no squares.
    """
    file = subject.file
    file.require_size((asked, asked) if asked is not None else None)
    if file.fixed_hw is None:
        return asked or named.imgsz or file.imgsz or DEFAULT_IMGSZ
    height, width = file.fixed_hw
    if height != width:
        raise SpecError(
            f"{file.path}: was exported for {height} x {width} px (height x width), and val needs a square",
            hint="export it again with one --imgsz, or with --dynamic",
        )
    return height


def _prepare(named: Named, data: Path, options: dict[str, Any]) -> Subject:
    from hpc_yolo.inference.eval_target import prepare_subject
    from hpc_yolo.monitor.progress import counting

    with counting("reading images", None) as on_progress:
        return prepare_subject(
            named.weights,
            data,
            SPLIT_OF_TASK[options["task"]],
            device=options["device"],
            half=options["half"],
            augment=options["augment"],
            single_cls=options["single_cls"] or named.single_cls,
            tell=_tell,
            on_progress=on_progress,
            needs_labels=not (options["save_json"] or options["save_txt"] or options["annotations"]),
        )


def _outputs(subject: Subject, options: dict[str, Any]) -> Outputs:
    """Return the directory, and what goes into it. What could fail after an hour is read before."""
    from hpc_yolo.inference.result_dirs import results_directory
    from hpc_yolo.inference.validate import Outputs

    annotations = _annotations(subject, options)
    return Outputs(
        directory=results_directory(options["project"], options["name"], exist_ok=options["exist_ok"]),
        predictions=options["save_json"] or annotations is not None,
        annotations=annotations,
        labels=options["save_txt"],
        scores=options["save_conf"],
    )


def _annotations(subject: Subject, options: dict[str, Any]) -> Annotations | None:
    """Return COCO's file of the truth: the one that is named, or that --save-json finds beside the split.

    Raises:
        DataError: the one that is named cannot be used; one that was found is passed over with a message.
    """
    from hpc_yolo.evaluation import coco
    from hpc_yolo.evaluation.coco_truth import read_annotations
    from hpc_yolo.inference.validate import PREDICTIONS, find_annotations

    is_named = options["annotations"] is not None
    path = options["annotations"] or (find_annotations(subject) if options["save_json"] else None)
    try:
        if path is not None and not coco.has_library():
            raise SpecError("--annotations: the official COCO numbers need pycocotools", hint=coco.INSTALL)
        if path is not None:
            found = read_annotations(path, subject.dataset.names, subject.index.paths)
            for message in found.messages:
                _tell(message)
            return found
    except (DataError, SpecError) as error:
        if is_named:
            raise
        _tell(f"no official COCO numbers: {error}")
    if options["save_json"] and (named_alike := coco.named_alike(subject.index.paths)):
        _tell(f"{PREDICTIONS}: {len(named_alike)} images of equal names have paths for ids, such as {named_alike[0]}")
    return None


def _validate(
    subject: Subject,
    imgsz: int,
    settings: EvaluationSettings,
    options: dict[str, Any],
    outputs: Outputs | None,
    *,
    square: bool = False,
) -> ValidationReport:
    from hpc_yolo.inference.validate import round_up, validate
    from hpc_yolo.monitor.progress import counting

    rounded = round_up(imgsz, subject.stride)
    if rounded != imgsz:
        _tell(f"--imgsz {imgsz} is no multiple of {subject.stride}, the network's largest stride; {rounded} is taken")
    try:
        with counting(f"evaluating at {rounded} px", subject.index.num_images) as on_progress:
            return validate(
                subject,
                imgsz=rounded,
                batch=options["batch_size"],
                workers=options["workers"],
                settings=settings,
                square=square,
                outputs=outputs,
                on_progress=on_progress,
            )
    except OSError as error:
        where = error.filename or (outputs.directory if outputs is not None else "a temporary file")
        raise RunError(
            f"{where}: cannot be written: {error.strerror or error}", hint="give another place with --project DIR"
        ) from error


def _study(subject: Subject, settings: EvaluationSettings, options: dict[str, Any]) -> None:
    """One pass for each image size."""
    from hpc_yolo.inference.result_dirs import results_directory
    from hpc_yolo.inference.validate import STUDY_SIZES, write_study

    directory = results_directory(options["project"], options["name"], exist_ok=options["exist_ok"])
    reports = [_validate(subject, imgsz, settings, options, None) for imgsz in STUDY_SIZES]
    write_study(directory, reports)
    print_study(reports, directory, as_json=options["as_json"])


def _tell(message: str) -> None:
    click.echo(message, err=True)
