"""The work of `hpc-yolo data check`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from hpc_yolo.cli.data_argument import find_dataset
from hpc_yolo.cli.data_check_output import fix_json, print_fix, print_result
from hpc_yolo.cli.quiet_libraries import quiet_libraries
from hpc_yolo.core.errors import DataError
from hpc_yolo.core.files import write_atomic
from hpc_yolo.data.check.corrections import Corrections
from hpc_yolo.data.check.dataset import check_dataset, open_splits
from hpc_yolo.data.check.fix import SplitFix, plan_fix, require_fixable, write_fix
from hpc_yolo.data.check.illustrations import illustrate
from hpc_yolo.data.check.result import CheckResult
from hpc_yolo.data.dataset import SPLITS, Dataset, load_dataset
from hpc_yolo.data.dataset_source import DatasetSource
from hpc_yolo.data.formats.split import SplitReader
from hpc_yolo.monitor.progress import counting
from hpc_yolo.report.data_page import data_page
from hpc_yolo.report.page import made_now

DEFAULT_IMGSZ = 640
NEEDED = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """The options of `hpc-yolo data check`, as their help describes them."""

    splits: str | None
    imgsz: int | None
    workers: int
    examples: int
    as_json: bool
    html: Path | None
    fix: Path | None
    yes: bool
    strict: bool


def run_check(written: str, options: CheckOptions) -> None:
    """Check the dataset `written`, print the result, write what is asked for; exit with 3 if it has errors.

    Raises:
        DataError: the dataset cannot be read, or a file not written.
    """
    source, spec = find_dataset(written)
    chosen = None if options.splits is None else _split_names(options.splits)
    dataset = load_dataset(source, needed_splits=NEEDED if chosen is None else chosen)
    names = [name for name in SPLITS if dataset.split(name)] if chosen is None else chosen
    readers = (opened := open_splits(dataset, names)).readers
    if options.fix is not None:
        require_fixable(dataset, source, readers, options.fix)
    corrections = Corrections()
    with quiet_libraries(), counting("checking images", None) as on_progress:
        result = check_dataset(
            dataset,
            opened,
            imgsz=options.imgsz or (DEFAULT_IMGSZ if spec is None else spec.train.imgsz),
            num_threads=options.workers,
            corrections=corrections,
            on_progress=on_progress,
        )
    fixes = {} if options.fix is None else plan_fix(dataset, readers, corrections)
    if options.as_json:
        click.echo(json.dumps(result.as_json() | ({"fix": fix_json(fixes)} if fixes else {}), indent=2))
    else:
        print_result(result, num_examples=options.examples)
    if options.html is not None:
        _write_page(options.html, result, readers)
        click.echo(f"page with images: {options.html}", err=options.as_json)
    if options.fix is not None:
        _print_or_write_copy(dataset, source, fixes, options.fix, options)
    if not result.is_clean(strict=options.strict):
        sys.exit(DataError.exit_code)


def _print_or_write_copy(
    dataset: Dataset,
    source: DatasetSource,
    fixes: Mapping[str, SplitFix],
    directory: Path,
    options: CheckOptions,
) -> None:
    """Print what a corrected copy in `directory` changes, and with --yes write it."""
    if not options.as_json:
        print_fix(fixes)
    if not options.yes:
        click.echo(f"nothing is written without --yes, which writes it to {directory}", err=options.as_json)
        return
    with counting("writing labels", None) as on_progress:
        path = write_fix(dataset, source, fixes, directory, on_progress)
    click.echo(f"written: {path}; look at it: hpc-yolo data check {path}", err=options.as_json)


def _write_page(path: Path, result: CheckResult, readers: Mapping[str, SplitReader]) -> None:
    with quiet_libraries():
        page = data_page(result, list(illustrate(result.findings, readers)), made_now())
    try:
        write_atomic(path, page.encode(errors="backslashreplace"))  # names of files are not always text
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}", hint="give another file to --html") from error


def _split_names(written: str) -> list[str]:
    """Return the splits in `written`, in their usual order.

    Raises:
        click.UsageError: one is unknown.
    """
    names = [name.strip() for name in written.split(",")]
    if unknown := [name for name in names if name not in SPLITS]:
        raise click.UsageError(f"--split {written}: no split is called {unknown[0]!r}; they are {', '.join(SPLITS)}")
    return [name for name in SPLITS if name in names]
