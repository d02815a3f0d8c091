"""`hpc-yolo val`: evaluate a model on a split of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hpc_yolo.cli.guide_command import GuideCommand
from hpc_yolo.cli.options import FRACTION, POSITIVE, SIDE

SPLIT_OF_TASK = {"train": "train", "val": "val", "test": "test", "speed": "val", "study": "val"}


@click.command(cls=GuideCommand)
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--weights", metavar="FILE", help="A .safetensors, .pt or exported file, a published name, a run.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Dataset YAML, a packed set, or a shipped name. [default: that of the run]",
)
@click.option("--batch-size", default=32, show_default=True, type=POSITIVE, help="Images of a batch.")
@click.option(
    "--imgsz", "--img", "--img-size", type=SIDE, help="Longer side in pixels. [default: as trained, else 640]"
)
@click.option("--conf-thres", default=0.001, show_default=True, type=FRACTION, help="Confidence threshold.")
@click.option("--iou-thres", default=0.6, show_default=True, type=FRACTION, help="IoU threshold of NMS.")
@click.option("--max-det", default=300, show_default=True, type=POSITIVE, help="Maximum detections of an image.")
@click.option(
    "--task",
    default="val",
    show_default=True,
    type=click.Choice(list(SPLIT_OF_TASK)),
    help="The split; speed: squares at 0.25 and 0.45; study: image sizes from 256 to 1536.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, or the number of a GPU.")
@click.option("--workers", default=8, show_default=True, type=click.IntRange(0), help="Loader processes.")
@click.option("--single-cls", is_flag=True, help="Treat all classes as one.")
@click.option("--augment", is_flag=True, help="Test-time augmentation: three sizes, one mirrored; slower.")
@click.option("--verbose", is_flag=True, help="Print the metrics of each class even if there are many.")
@click.option("--save-txt", is_flag=True, help="Write detections as label files.")
@click.option("--save-conf", is_flag=True, help="With --save-txt: confidences in a sixth column.")
@click.option("--save-hybrid", is_flag=True, hidden=True)
@click.option("--save-json", is_flag=True, help="Write COCO JSON; official metrics where its annotations are.")
@click.option(
    "--annotations",
    type=click.Path(path_type=Path),
    help="COCO annotations for the official metrics. [default: found in <data>/annotations]",
)
@click.option("--half", is_flag=True, help="Half precision, on a GPU.")
@click.option("--project", default="runs/val", show_default=True, type=click.Path(path_type=Path), help="Directory.")
@click.option("--name", default="exp", show_default=True, help="Directory inside it; exp2 if exp exists.")
@click.option("--exist-ok", is_flag=True, help="Write into <project>/<name> even if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print all metrics as JSON, for scripts.")
def val(run: Path | None, weights: str | None, data: Path | None, save_hybrid: bool, **options: Any) -> None:
    """Evaluate the best model of RUN (a run directory or a checkpoint), or --weights on --data.

    \b
    hpc-yolo val runs/shapes                                   the run's own dataset and image size
    hpc-yolo val --weights yolov5s.pt --data coco.yaml --img 640 --iou 0.65 --save-json
    hpc-yolo val runs/shapes --task test --verbose

    Metrics, the confusion matrix and saved files go to <project>/<name>. Options may be abbreviated: --batch, --conf.
    """
    if save_hybrid:
        raise click.UsageError(
            "--save-hybrid: not supported, since labels mixed into detections would count as found; use --save-txt"
        )
    if options["save_conf"] and not options["save_txt"]:
        raise click.UsageError("--save-conf adds a column to the files of --save-txt; give both")

    from hpc_yolo.cli.run_val import ValOptions, run_val  # imports torch

    run_val(run, weights, data, SPLIT_OF_TASK[options["task"]], ValOptions(**options))
