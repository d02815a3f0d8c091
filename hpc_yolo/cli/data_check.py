"""`hpc-yolo data check`: check every image and label of a dataset."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpc_yolo.cli.data_argument import read_dataset
from hpc_yolo.cli.quiet_libraries import quiet_libraries
from hpc_yolo.core.errors import DataError
from hpc_yolo.core.files import write_atomic
from hpc_yolo.monitor.progress import counting

if TYPE_CHECKING:
    from hpc_yolo.data.check.result import CheckResult
    from hpc_yolo.data.formats.split import SplitReader

NEEDED = ("train", "val")


@click.command(short_help="Check every image and label of a dataset.")
@click.argument("written", metavar="DATA")
@click.option(
    "--split", "splits", metavar="NAMES", help="Splits with commas between them. [default: all that DATA has]"
)
@click.option(
    "--imgsz", "--img", default=640, show_default=True, type=click.IntRange(32), help="Image size of the training."
)
@click.option("--workers", default=0, type=click.IntRange(0), metavar="N", help="Threads. [default: one a core]")
@click.option("--examples", default=3, show_default=True, type=click.IntRange(0), help="Findings of each kind shown.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts, with every finding.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with images of the worst.")
@click.option("--strict", is_flag=True, help="Exit with 3 for warnings too.")
def check(
    written: str,
    splits: str | None,
    imgsz: int,
    workers: int,
    examples: int,
    as_json: bool,
    html: Path | None,
    strict: bool,
) -> None:
    """Open every image of DATA, read every line of its labels, and report what is wrong, with file and line.

    DATA is a dataset YAML, the name of a shipped one, or a spec.

    \b
    hpc-yolo data check coco.yaml
    hpc-yolo data check spec.yaml --split val --html check.html
    hpc-yolo data check data.yaml --json | jq '.findings[] | select(.severity == "error")'

    \b
    error    training leaves an image out, or stops
    warning  probably a mistake: boxes beyond the image, tiny or repeated; images that are in a split twice,
             or in train and val; classes without objects; images without labels
    note     good to know: almost equal images, images without objects, boxes of an extreme shape

    Exit code: 0 without errors, 3 with one (as for a dataset that cannot be read). No file of the dataset is changed.
    """
    from hpc_yolo.cli.data_check_output import print_result
    from hpc_yolo.data.check.dataset import check_dataset, open_splits  # imports OpenCV
    from hpc_yolo.data.dataset import SPLITS

    if html is not None and not html.absolute().parent.is_dir():
        raise click.UsageError(f"--html {html}: there is no directory {html.parent}")
    chosen = None if splits is None else _read_splits(splits, SPLITS)
    dataset = read_dataset(written, NEEDED if chosen is None else chosen)
    if chosen is None:
        chosen = [name for name in SPLITS if dataset.split(name)]
    opened = open_splits(dataset, chosen)
    with quiet_libraries(), counting("checking images", None) as on_progress:
        result = check_dataset(dataset, opened, imgsz=imgsz, num_threads=workers, on_progress=on_progress)
    if html is not None:
        _write_page(html, result, opened.readers)
    if as_json:
        click.echo(json.dumps(result.as_json(), indent=2))
    else:
        print_result(result, num_examples=examples)
    if html is not None:
        click.echo(f"page with images: {html} ({html.stat().st_size / 1e6:.1f} MB)", err=as_json)
    if not result.is_clean(strict=strict):
        sys.exit(DataError.exit_code)


def _write_page(path: Path, result: CheckResult, readers: Mapping[str, SplitReader]) -> None:
    """Write the page of a check.

    Raises:
        DataError: it cannot be written.
    """
    from hpc_yolo.data.check.illustrations import illustrate  # imports OpenCV
    from hpc_yolo.report.data_page import data_page
    from hpc_yolo.report.page import made_now

    with quiet_libraries():
        page = data_page(result, list(illustrate(result.findings, readers)), made_now())
    try:
        write_atomic(path, page)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}", hint="give another file to --html") from error


def _read_splits(written: str, known: tuple[str, ...]) -> list[str]:
    """Return the names in `written`, in the order of `known`.

    Raises:
        click.UsageError: one is unknown.
    """
    names = [name.strip() for name in written.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"--split {written}: no split is called {unknown[0]!r}; they are {', '.join(known)}")
    return [name for name in known if name in names]
