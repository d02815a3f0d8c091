"""`hpc-yolo data verify`: compare a packed set with the CRCs of its files."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.units import counted, short_bytes
from hpc_yolo.monitor.progress import counting_bytes


@click.command(short_help="Check every byte of a packed set.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def verify(directory: Path, as_json: bool) -> None:
    """Check every byte of the packed set in DIR, or of a copy of one; damaged images are named.

    Exits with 3 where a file is missing, cut off or damaged.
    """
    from hpc_yolo.data.pack.layout import read_manifest
    from hpc_yolo.data.pack.verify import verify_set

    files = read_manifest(directory).files
    with counting_bytes("checking files") as on_progress:
        problems = verify_set(directory, on_progress)
    size = sum(file.size for file in files.values())
    if as_json:
        click.echo(json.dumps({"directory": str(directory), "files": len(files), "bytes": size, "problems": problems}))
    if problems:
        raise DataError(
            f"{directory}: {counted(len(problems), 'file')} of {len(files)} damaged\n  " + "\n  ".join(problems),
            hint="copy them again from where the set was packed, or pack the dataset again",
        )
    if not as_json:
        click.echo(f"{directory}: {counted(len(files), 'file')}, {short_bytes(size)}: no damage")
