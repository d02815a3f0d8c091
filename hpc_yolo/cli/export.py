"""`hpc-yolo export`: a trained network for other programs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hpc_yolo.cli.named import find_weights
from hpc_yolo.cli.prefixes import GuideCommand


class ExportCommand(GuideCommand):
    many = ("--imgsz", "--img", "--img-size")


@click.command(cls=ExportCommand, short_help="Write a network as ONNX or TorchScript, and check it.")
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@click.option("--weights", metavar="FILE", help="The same as FILE, or a published name.")
@click.option(
    "--include",
    "--format",
    "forms",
    metavar="FORM[,FORM]",
    default="torchscript",
    show_default=True,
    help="onnx, torchscript, or both with a comma.",
)
@click.option("--imgsz", "--img", "--img-size", default="640", show_default=True, metavar="PIXELS", help="Side or H W.")
@click.option("--batch-size", type=click.IntRange(min=1), default=1, show_default=True, metavar="N")
@click.option("--dynamic", is_flag=True, help="Any number of pictures of any size.")
@click.option("--opset", type=click.IntRange(min=12, max=20), default=17, show_default=True, metavar="N")
@click.option("--half", is_flag=True, hidden=True)
@click.option("--simplify", is_flag=True, hidden=True)
def export(
    file: Path | None,
    weights: str | None,
    forms: str,
    imgsz: str,
    batch_size: int,
    dynamic: bool,
    opset: int,
    half: bool,
    simplify: bool,
) -> None:
    """Write the network of FILE (a run directory, .safetensors or .pt) for other programs, beside it.

    What is written is run and compared with the network before it gets its name: boxes to a ten-thousandth of the
    picture's side, scores to a ten-thousandth.
    """
    from hpc_yolo.errors import HpcYoloError
    from hpc_yolo.inference.export import SUFFIXES, ExportOptions
    from hpc_yolo.inference.export import export as write
    from hpc_yolo.weights.model_file import read_model_file

    if half or simplify:
        raise click.UsageError(
            f"{'--half' if half else '--simplify'} is not there: files are fp32, as the graph is traced"
        )
    chosen = forms.replace(" ", "").split(",")
    unknown = [form for form in chosen if form not in SUFFIXES]
    if unknown:
        raise click.UsageError(f"--include {unknown[0]}: there are {', '.join(SUFFIXES)}")
    sides = [int(side) for side in imgsz.split(",") if side.isdigit()]
    if len(sides) not in (1, 2):
        raise click.UsageError(f"--imgsz {imgsz}: one side in pixels, or height and width")
    options = ExportOptions((sides[0], sides[-1]), batch_size, dynamic, opset)
    path = find_weights(file, weights).weights
    network = read_model_file(path)
    failed = False
    for form in chosen:
        try:
            done = write(network, form, path.with_suffix(SUFFIXES[form]), options)
            size = done.path.stat().st_size / 2**20
            click.echo(f"{done.path}: {size:.1f} MiB, run and compared: largest difference {done.difference:.1e}")
        except HpcYoloError as error:
            failed = True
            click.echo(click.style(f"{form}: ", fg="red") + str(error), err=True)
    if failed:
        sys.exit(1)
