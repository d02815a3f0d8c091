"""`hpc-yolo predict`: detect objects on images and videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hpc_yolo.cli.guide_command import GuideCommand
from hpc_yolo.cli.options import FRACTION, POSITIVE, SIDES

UNSUPPORTED_FLAGS = ("view_img", "visualize", "update")


class PredictCommand(GuideCommand):
    """The guide's command line, in which --imgsz and --classes take several numbers."""

    number_lists = ("--imgsz", "--img", "--img-size", "--classes")


@click.command(cls=PredictCommand)
@click.argument("sources", metavar="[SOURCE]...", nargs=-1)
@click.option("--source", "named_source", metavar="SOURCE", help="The same as SOURCE.")
@click.option(
    "--weights", required=True, metavar="FILE", help="A run, .safetensors, .pt, exported file, published name."
)
@SIDES
@click.option("--conf-thres", default=0.25, show_default=True, type=FRACTION, help="Confidence threshold.")
@click.option("--iou-thres", default=0.45, show_default=True, type=FRACTION, help="IoU threshold of NMS.")
@click.option("--max-det", default=1000, show_default=True, type=POSITIVE, help="Maximum detections of an image.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, or the number of a GPU.")
@click.option("--classes", metavar="CLASS[,CLASS]", help="Detect only these, by number or name.")
@click.option("--agnostic-nms", is_flag=True, help="NMS across classes.")
@click.option("--augment", is_flag=True, help="Test-time augmentation: three sizes, one mirrored; slower.")
@click.option("--half", is_flag=True, help="Half precision, on a GPU.")
@click.option("--vid-stride", default=1, show_default=True, type=POSITIVE, help="Process every Nth frame.", metavar="N")
@click.option("--nosave", is_flag=True, help="Do not write images.")
@click.option("--save-txt", is_flag=True, help="Write detections as label files.")
@click.option("--save-conf", is_flag=True, help="With --save-txt: confidences in a sixth column.")
@click.option("--save-crop", is_flag=True, help="Write a crop of each detection, in a directory for each class.")
@click.option("--line-thickness", type=POSITIVE, metavar="PIXELS", help="Of boxes. [default: by image size]")
@click.option("--hide-labels", is_flag=True, help="Draw boxes without class names.")
@click.option("--hide-conf", is_flag=True, help="Draw class names without confidences.")
@click.option("--project", default="runs/detect", show_default=True, type=click.Path(path_type=Path), help="Directory.")
@click.option("--name", default="exp", show_default=True, help="Directory inside it; exp2 if exp exists.")
@click.option("--exist-ok", is_flag=True, help="Write into <project>/<name> even if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each image, for scripts.")
@click.option("--view-img", is_flag=True, hidden=True)
@click.option("--visualize", is_flag=True, hidden=True)
@click.option("--update", is_flag=True, hidden=True)
def predict(sources: tuple[str, ...], named_source: str | None, weights: str, **options: Any) -> None:
    """Detect objects on each SOURCE.

    A SOURCE is an image, a video, a directory, a "pattern", a list (.txt), the number of a camera, or the address of an
    image or a stream.

    \b
    hpc-yolo predict images/ --weights runs/shapes
    hpc-yolo predict street.mp4 --weights yolov5s.pt --conf 0.5 --classes car,bus --save-txt
    hpc-yolo predict http://10.0.0.7/bus.jpg rtsp://10.0.0.7/live --weights yolov5n.pt --nosave --json

    Images with boxes go to <project>/<name>; sources are not changed, and results of earlier commands are not taken as
    sources. Ctrl-C and SIGTERM keep what has been written. A source that cannot be read, or whose results cannot be
    written, is reported and does not stop the others; the exit code is then 3.
    """
    for flag in UNSUPPORTED_FLAGS:
        if options.pop(flag):
            raise click.UsageError(
                f"--{flag.replace('_', '-')} is not supported: images with boxes are in <project>/<name>"
            )
    written = [*sources, *([named_source] if named_source else [])]
    if not written or "" in written:  # Path("") would be the working directory
        raise click.UsageError("name a SOURCE: an image, a directory, a video, the number of a camera, an address")

    from hpc_yolo.cli.run_predict import PredictOptions, run_predict  # imports torch

    run_predict(written, weights, PredictOptions(**options))
