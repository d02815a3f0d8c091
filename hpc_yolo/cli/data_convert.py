"""`hpc-yolo data convert`: write a dataset in another format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from hpc_yolo.core.units import counted
from hpc_yolo.monitor.progress import counting

if TYPE_CHECKING:
    from hpc_yolo.data.convert.convert import Conversion

MAX_SHOWN = 5


@click.command(short_help="Write a dataset in another format.")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--to", "kind", required=True, type=click.Choice(["yolo", "coco", "voc"]), help="Format to write.")
@click.option(
    "--images",
    type=click.Choice(["link", "copy", "none"]),
    help="Link or copy the images into DIR, or leave them where they are. [default: link for yolo, none for others]",
)
@click.option(
    "--images-from",
    type=click.Path(path_type=Path),
    help="Directory of the images of SOURCE, where that is no dataset YAML and they are not beside it.",
)
@click.option("--exist-ok", is_flag=True, help="Accept a DIR that has the same content already.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def convert(
    source: Path,
    directory: Path,
    kind: str,
    images: str | None,
    images_from: Path | None,
    exist_ok: bool,
    as_json: bool,
) -> None:
    """Write SOURCE in another format into the new directory DIR, with a dataset YAML.

    \b
    hpc-yolo data convert instances_val2017.json coco-yolo --to yolo --images-from val2017
    hpc-yolo data convert VOCdevkit/VOC2012 voc-coco --to coco
    hpc-yolo data convert coco.yaml coco-voc --to voc --images copy

    SOURCE is a dataset YAML in any format, a COCO JSON, a directory with VOC's ImageSets/Main, or one of XML files. A
    training needs no conversion: it reads all three formats, and gets the same samples from each.

    DIR is complete or absent, and nothing that exists is written over. Without --images, a YOLO dataset gets links to
    the images, which it needs beside its labels; COCO and VOC name the directory where the images are. What the other
    format cannot have is counted and printed.
    """
    from hpc_yolo.data.convert.convert import convert as write_converted  # these import OpenCV
    from hpc_yolo.data.convert.source import find_dataset

    dataset = find_dataset(source, images_from)
    with counting("converting images", None) as on_progress:
        found = write_converted(dataset, directory, kind, images=images, exist_ok=exist_ok, on_progress=on_progress)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found)))  # names of files need not be UTF-8
        return
    for line in (*dataset.messages, *_remarks(found)):
        click.echo(line, err=True)
    counts = ", ".join(
        f"{split} {counted(one.num_images, 'image')} with {counted(one.num_objects, 'object')}"
        for split, one in found.splits.items()
    )
    click.echo(f"{found.dataset}: {counts}" + ("" if found.is_new else "; it was there already"))


def _remarks(found: Conversion) -> list[str]:
    """Return what was left out or changed, a line each."""
    num_left_out = sum(one.num_left_out for one in found.splits.values())
    lines = []
    if num_left_out:
        lines += [f"{counted(num_left_out, 'image')} left out:", *found.problems[:MAX_SHOWN]]
        lines += [f"… and {num_left_out - MAX_SHOWN} more"] if num_left_out > MAX_SHOWN else []
    lines += found.remarks
    lines += [f"{counted(number, 'object')} {what}" for what, number in found.lost.items()]
    if found.images == "none" and found.format == "yolo":
        lines.append(f"put the images of each split into {Path(found.dataset).parent / 'images'}/SPLIT")
    return lines
