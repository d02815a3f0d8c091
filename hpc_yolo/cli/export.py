"""`hpc-yolo export`: write a trained model for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import click

from hpc_yolo.cli.guide_command import GuideCommand
from hpc_yolo.cli.options import FRACTION, POSITIVE, SIDES, read_sides

FORMS = ("onnx", "torchscript")
# Forms of the guide that are not supported.
OTHER_FORMS = ("openvino", "engine", "coreml", "saved_model", "pb", "tflite", "edgetpu", "tfjs", "paddle")


class ExportCommand(GuideCommand):
    """The guide's command line, in which --imgsz and --include take several values."""

    number_lists = ("--imgsz", "--img", "--img-size")
    choice_lists: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "--include": FORMS + OTHER_FORMS,
        "--format": FORMS + OTHER_FORMS,
    }


@click.command(cls=ExportCommand)
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@click.option("--weights", metavar="FILE", help="The same as FILE, or a published name.")
@click.option(
    "--include",
    "--format",
    "forms",
    multiple=True,
    metavar="FORM",
    default=("torchscript",),
    show_default=True,
    help="onnx, torchscript, or both in a row.",
)
@SIDES
@click.option("--batch-size", type=click.IntRange(min=1), default=1, show_default=True, metavar="N")
@click.option("--dynamic", is_flag=True, help="Accept any number of images of any size.")
@click.option(
    "--nms", is_flag=True, help="Put the suppression into the file (onnx): it returns boxes, scores, classes."
)
@click.option("--conf-thres", default=0.25, show_default=True, type=FRACTION, help="With --nms: least score of a box.")
@click.option(
    "--iou-thres", default=0.45, show_default=True, type=FRACTION, help="With --nms: largest IoU of two boxes."
)
@click.option("--max-det", default=300, show_default=True, type=POSITIVE, help="With --nms: boxes of an image.")
@click.option("--opset", type=click.IntRange(min=12, max=20), default=17, show_default=True, metavar="N")
@click.option("--half", is_flag=True, hidden=True)
@click.option("--simplify", is_flag=True, hidden=True)
def export(
    file: Path | None,
    weights: str | None,
    forms: tuple[str, ...],
    imgsz: str | None,
    batch_size: int,
    dynamic: bool,
    nms: bool,
    conf_thres: float,
    iou_thres: float,
    max_det: int,
    opset: int,
    half: bool,
    simplify: bool,
) -> None:
    """Write the model of FILE (a run directory, .safetensors or .pt) for other programs, beside it.

    The written file is run and compared with the model before it gets its name: boxes to a ten-thousandth of the
    image's side, scores to a ten-thousandth. `hpc-yolo val` and `predict` run it too, on the CPU. A TorchScript file is
    a program: run only those whose origin you trust.
    """
    if half:
        raise click.UsageError("--half is not supported: exported files compute in fp32, as CPUs do")
    if simplify:
        raise click.UsageError("--simplify is not supported: the graph is folded already")
    chosen, sides = _read_forms(forms), read_sides(imgsz) if imgsz else None
    if nms and chosen != ["onnx"]:
        raise click.UsageError("--nms is for onnx: add --include onnx, alone")

    from hpc_yolo.cli.run_export import run_export  # imports torch

    run_export(
        file,
        weights,
        chosen,
        sides,
        batch=batch_size,
        dynamic=dynamic,
        opset=opset,
        suppression=(conf_thres, iou_thres, max_det) if nms else None,
    )


def _read_forms(written: tuple[str, ...]) -> list[str]:
    """Return the requested forms, each once."""
    chosen = list(dict.fromkeys(form.strip() for value in written for form in value.split(",")))
    unknown = [form for form in chosen if form not in FORMS]
    if unknown:
        raise click.UsageError(f"--include {unknown[0]}: must be one of {', '.join(FORMS)}")
    return chosen
