"""`hpc-yolo data`: create, check, convert and pack datasets."""

from __future__ import annotations

from pathlib import Path

import click

from hpc_yolo.cli.data_check import check
from hpc_yolo.cli.data_convert import convert
from hpc_yolo.cli.data_pack import pack
from hpc_yolo.cli.data_staged import staged
from hpc_yolo.cli.data_verify import verify
from hpc_yolo.monitor.progress import counting


@click.group()
def data() -> None:
    """Create, check, convert and pack datasets."""


KINDS = ("shapes", "glyphs")


@data.command(short_help="Draw a labelled dataset.")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="shapes",
    show_default=True,
    help="shapes: large and easy, 4 classes that differ in form and colour. glyphs: small letters and digits of 8 to "
    "40 pixels on textures, 8 classes that differ in form alone; for small objects, train at the size of the images.",
)
@click.option("--train", "num_train", default=240, show_default=True, help="Number of training images.")
@click.option("--val", "num_val", default=80, show_default=True, help="Number of validation images.")
@click.option("--width", default=320, show_default=True, help="Width in pixels.")
@click.option("--height", default=240, show_default=True, help="Height in pixels.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="The same seed draws the same images."
)
def synth(directory: Path, kind: str, num_train: int, num_val: int, width: int, height: int, seed: int) -> None:
    """Draw a labelled dataset into DIRECTORY, for a first training or a comparison without a download.

    \b
    Examples:
      hpc-yolo data synth datasets/shapes
      hpc-yolo data synth datasets/glyphs --kind glyphs --width 192 --height 192
    """
    from hpc_yolo.data.synth import write_drawn_dataset  # imports OpenCV

    with counting("drawing images", num_train + num_val) as on_progress:
        dataset = write_drawn_dataset(
            kind,
            directory,
            num_train=num_train,
            num_val=num_val,
            image_size=(width, height),
            seed=seed,
            on_progress=on_progress,
        )
    click.echo(f"{num_train} training and {num_val} validation images: {dataset}")


data.add_command(check)
data.add_command(convert)
data.add_command(pack)
data.add_command(verify)
data.add_command(staged)
