"""`hpc-yolo export`: a trained network for other programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import click

from hpc_yolo.cli.options import read_sides, whole_strides
from hpc_yolo.cli.prefixes import GuideCommand
from hpc_yolo.cli.weights_argument import find_weights

FORMS = ("onnx", "torchscript")
# Of the original, and not written here.
OTHER_FORMS = ("openvino", "engine", "coreml", "saved_model", "pb", "tflite", "edgetpu", "tfjs", "paddle")


DEFAULT_IMGSZ = 640


class ExportCommand(GuideCommand):
    many = ("--imgsz", "--img", "--img-size")
    many_words: ClassVar[Mapping[str, tuple[str, ...]]] = {
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
@click.option("--imgsz", "--img", "--img-size", metavar="PIXELS", help="Side, or height and width; as trained, or 640.")
@click.option("--batch-size", type=click.IntRange(min=1), default=1, show_default=True, metavar="N")
@click.option("--dynamic", is_flag=True, help="Any number of images of any size.")
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
    opset: int,
    half: bool,
    simplify: bool,
) -> None:
    """Write the model of FILE (a run directory, .safetensors or .pt) for other programs, beside it.

    What is written is run and compared with the model before it gets its name: boxes to a ten-thousandth of the image's
    side, scores to a ten-thousandth. `hpc-yolo val` and `predict` run it too, on the CPU. A TorchScript file is a
    program: run only those whose origin you trust.
    """
    from rich.console import Console

    from hpc_yolo.core.errors import HpcYoloError
    from hpc_yolo.inference.export import SUFFIXES, ExportOptions
    from hpc_yolo.inference.export import export as write
    from hpc_yolo.weights.model_file import build_detector, read_model_file

    if half or simplify:
        reason = "what is written is fp32: CPUs compute in it" if half else "the graph is small, and folded, already"
        raise click.UsageError(f"--{'half' if half else 'simplify'} is not there: {reason}")
    chosen, asked = _forms(forms), read_sides(imgsz) if imgsz else None
    named = find_weights(file, weights)
    path = named.weights
    read = read_model_file(path)
    model = build_detector(read)
    trained = named.imgsz or read.imgsz
    sides = whole_strides(asked or (trained or DEFAULT_IMGSZ,) * 2, model.image_stride)
    options = ExportOptions(sides, batch_size, dynamic, opset, trained)
    exit_code = 0
    for form in chosen:
        try:
            with Console(stderr=True).status(f"{form}: writing, and comparing"):
                done = write(model, read.names, form, path.with_suffix(SUFFIXES[form]), options)
            size = done.path.stat().st_size / 2**20
            click.echo(f"{done.path}: {size:.1f} MiB, run and compared: largest difference {done.difference:.1e}")
        except HpcYoloError as error:
            exit_code = error.exit_code
            click.echo(click.style(f"{form}: ", fg="red") + str(error), err=True)
    sys.exit(exit_code)


def _forms(written: tuple[str, ...]) -> list[str]:
    """The forms that were asked for, each once."""
    chosen = list(dict.fromkeys(form.strip() for words in written for form in words.split(",")))
    unknown = [form for form in chosen if form not in FORMS]
    if unknown:
        raise click.UsageError(f"--include {unknown[0]}: there are {', '.join(FORMS)}")
    return chosen
