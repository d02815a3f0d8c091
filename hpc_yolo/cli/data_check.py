"""`hpc-yolo data check`: check every image and label of a dataset."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click


@click.command(short_help="Check every image and label of a dataset.")
@click.argument("written", metavar="DATA")
@click.option(
    "--split", "splits", metavar="NAMES", help="Splits with commas between them. [default: all that DATA has]"
)
@click.option(
    "--imgsz", "--img", type=click.IntRange(32), help="Image size of the training. [default: that of a spec, else 640]"
)
@click.option("--workers", default=0, type=click.IntRange(0), metavar="N", help="Threads. [default: one a core]")
@click.option("--examples", default=3, show_default=True, type=click.IntRange(0), help="Findings of each kind shown.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts, with every finding.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with images of the worst.")
@click.option(
    "--fix",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Show what a corrected copy of the labels in DIR would change.",
)
@click.option("--yes", is_flag=True, help="With --fix: write it.")
@click.option("--strict", is_flag=True, help="Exit with 3 for warnings too.")
def check(written: str, **options: Any) -> None:
    """Open every image of DATA, read every line of its labels, and report what is wrong, with file and line.

    DATA is a dataset YAML, the name of a shipped one, or a spec.

    \b
    hpc-yolo data check coco.yaml
    hpc-yolo data check spec.yaml --split val --html check.html
    hpc-yolo data check data.yaml --json | jq '.findings[] | select(.severity == "error")'
    hpc-yolo data check data.yaml --fix data-fixed --yes

    \b
    error    training leaves an image out, or stops
    warning  probably a mistake: boxes beyond the image, tiny or repeated; images that are in a split twice,
             or in train and val; classes without objects; images without labels
    note     good to know: almost equal images, images without objects, boxes of an extreme shape

    --fix DIR --yes writes a new dataset: lists without unusable and repeated images, links to the images, and labels
    in which boxes are clipped and invalid or repeated lines dropped. No file of DATA is ever changed.

    Exit code: 0 without errors, 3 with one (as for a dataset that cannot be read), also if a corrected copy is written.
    """
    if options["yes"] and options["fix"] is None:
        raise click.UsageError("--yes writes the directory of --fix; give both")
    if (html := options["html"]) is not None and not html.absolute().parent.is_dir():
        raise click.UsageError(f"--html {html}: there is no directory {html.parent}")
    if html is not None and os.path.exists(html) and not os.path.isfile(html):  # noqa: PTH110, PTH113, of any name
        raise click.UsageError(f"--html {html}: is no regular file, and would be replaced")

    from hpc_yolo.cli.run_data_check import CheckOptions, run_check  # imports OpenCV

    run_check(written, CheckOptions(**options))
