"""`hpc-yolo data pack`: put a dataset into a few large files."""

from __future__ import annotations

from pathlib import Path

import click

from hpc_yolo.cli.data_argument import find_dataset
from hpc_yolo.core.units import counted, parse_mem_bytes, short_bytes
from hpc_yolo.monitor.progress import counting


def _shard_bytes(_context: click.Context, _option: click.Parameter, written: str) -> int:
    try:
        return parse_mem_bytes(written)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(short_help="Put a dataset into a few large files.")
@click.argument("dataset", metavar="DATA")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--size", type=click.IntRange(32), help="Scale larger images to this longer side, in pixels. [default: copy images]"
)
@click.option(
    "--quality", default=95, show_default=True, type=click.IntRange(1, 100), help="Of scaled images, as JPEG."
)
@click.option("--shard-size", default="4G", show_default=True, callback=_shard_bytes, help="Largest size of a shard.")
def pack(dataset: str, directory: Path, size: int | None, quality: int, shard_size: int) -> None:
    """Put all images and labels of DATA into DIR: a few plain tar files and an index, which is a dataset as DATA is.

    DATA is a dataset YAML, the name of a shipped one, an archive, a packed set, or a spec.

    \b
    hpc-yolo data pack coco.yaml /scratch/coco-packed
    hpc-yolo data pack coco.yaml /scratch/coco-1280 --size 1280
    hpc-yolo submit spec.yaml --set data=/scratch/coco-packed

    A training reads each image with one read from a file that is open already, and gets the same samples bit for bit.
    Images are copied byte for byte, unless --size scales them. The same command again goes on where an interrupted one
    stopped. The same dataset always gives the same bytes. Check a set or a copy of it with `hpc-yolo data verify`.
    """
    from hpc_yolo.data.dataset import SPLITS, load_dataset  # these import OpenCV
    from hpc_yolo.data.pack.build import pack_dataset
    from hpc_yolo.data.pack.layout import Options
    from hpc_yolo.data.scan import scan_split

    source = load_dataset(find_dataset(dataset)[0])
    messages, indexes = list(source.messages), {}
    for split in SPLITS:
        if source.split(split):
            with counting(f"checking {split}", None) as on_progress:
                indexes[split] = scan_split(source, split, on_progress, needs_labels=False)
            messages += indexes[split].messages
    for message in messages:
        click.echo(message, err=True)
    options = Options(size=size, quality=quality, shard_bytes=shard_size)
    with counting("packing images", None) as on_progress:
        result = pack_dataset(source, indexes, directory, options, on_progress)
    counts = ", ".join(f"{split} {counted(number, 'image')}" for split, number in result.manifest.images.items())
    files = result.manifest.files.values()
    total_bytes = sum(file.size for file in files)
    kept = f"; {counted(result.num_kept, 'image')} were packed already" if result.num_kept else ""
    click.echo(f"{directory}: {counts}, {short_bytes(total_bytes)} in {len(files) + 1} files{kept}")
