"""Carry out `hpc-yolo export`. Imports torch, so `export.py` imports it when the command runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from hpc_yolo.cli.options import whole_strides
from hpc_yolo.cli.weights_argument import find_weights
from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.inference.export import SUFFIXES, ExportOptions, export
from hpc_yolo.inference.model import DEFAULT_IMGSZ
from hpc_yolo.inference.suppressed import Suppression
from hpc_yolo.weights.model_file import build_detector, read_model_file


def run_export(
    file: Path | None,
    weights: str | None,
    forms: Sequence[str],
    sides: tuple[int, int] | None,
    *,
    batch: int,
    dynamic: bool,
    opset: int,
    suppression: tuple[float, float, int] | None = None,
) -> None:
    """Write the model of `file` or `weights` in each of `forms`; exit with the code of the last error.

    Args:
        sides: height and width in pixels; None takes the size that the model was trained at.
        suppression: least score, largest IoU and most boxes of a suppression inside the file.

    Raises:
        HpcYoloError: the model cannot be read.
    """
    resolved = find_weights(file, weights)
    path = resolved.weights
    content = read_model_file(path)
    model = build_detector(content)
    trained = resolved.imgsz or content.imgsz
    usual = trained or DEFAULT_IMGSZ
    sides = whole_strides(sides or (usual, usual), model.image_stride)
    inside = None if suppression is None else Suppression(*suppression)
    options = ExportOptions(sides, batch, dynamic, opset, trained, inside)
    exit_code = 0
    for form in forms:
        try:
            with Console(stderr=True).status(f"{form}: writing and comparing"):
                done = export(model, content.names, form, path.with_suffix(SUFFIXES[form]), options)
            size = done.path.stat().st_size / 2**20
            click.echo(f"{done.path}: {size:.1f} MiB, run and compared: largest difference {done.difference:.1e}")
        except HpcYoloError as error:
            exit_code = error.exit_code
            click.echo(click.style(f"{form}: ", fg="red") + str(error), err=True)
    sys.exit(exit_code)
