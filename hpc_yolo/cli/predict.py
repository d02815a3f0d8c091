"""`hpc-yolo predict`: what a network finds on images and videos."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc_yolo.cli.options import read_sides, whole_strides
from hpc_yolo.cli.prefixes import GuideCommand
from hpc_yolo.cli.weights_argument import find_weights
from hpc_yolo.core.errors import DataError
from hpc_yolo.core.text import printable
from hpc_yolo.core.units import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hpc_yolo.inference.outputs import Outputs
    from hpc_yolo.inference.predict import Prediction, Predictor, Unreadable
    from hpc_yolo.inference.sources import Frame, Source

DEFAULT_IMGSZ = 640
FAILED_SOURCES = 3  # the exit code of `DataError`
SHARE = click.FloatRange(0, 1)
POSITIVE = click.IntRange(1)


class PredictCommand(GuideCommand):
    many = ("--imgsz", "--img", "--img-size", "--classes")


@click.command(cls=PredictCommand)
@click.argument("sources", metavar="[SOURCE]...", nargs=-1)
@click.option("--source", "named_source", metavar="SOURCE", help="The same as SOURCE.")
@click.option(
    "--weights", required=True, metavar="FILE", help="A run, .safetensors, .pt, exported file, published name."
)
@click.option("--imgsz", "--img", "--img-size", metavar="PIXELS", help="Side, or height and width; as trained, or 640.")
@click.option("--conf-thres", default=0.25, show_default=True, type=SHARE, help="Least confidence.")
@click.option("--iou-thres", default=0.45, show_default=True, type=SHARE, help="Overlap that suppresses.")
@click.option("--max-det", default=1000, show_default=True, type=POSITIVE, help="Most detections of an image.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, or the number of a GPU.")
@click.option("--classes", metavar="CLASS[,CLASS]", help="Look for these only: numbers or names.")
@click.option("--agnostic-nms", is_flag=True, help="Boxes of different classes suppress each other too.")
@click.option("--augment", is_flag=True, help="Look at three sizes, once mirrored: slower, finds a little more.")
@click.option("--half", is_flag=True, help="Half precision, on a GPU.")
@click.option("--vid-stride", default=1, show_default=True, type=POSITIVE, help="Look at every so many frames.")
@click.option("--nosave", is_flag=True, help="Draw no images.")
@click.option("--save-txt", is_flag=True, help="Write what was found as label files.")
@click.option("--save-conf", is_flag=True, help="With --save-txt: confidences in a sixth column.")
@click.option("--save-crop", is_flag=True, help="Cut out what was found, a directory a class.")
@click.option("--line-thickness", type=POSITIVE, metavar="PIXELS", help="Of boxes; by the image's size unless said.")
@click.option("--hide-labels", is_flag=True, help="Boxes without names.")
@click.option("--hide-conf", is_flag=True, help="Names without confidences.")
@click.option("--project", default="runs/detect", show_default=True, type=click.Path(path_type=Path), help="Directory.")
@click.option("--name", default="exp", show_default=True, help="Directory inside it; exp2 where exp is there.")
@click.option("--exist-ok", is_flag=True, help="Write into <project>/<name> even if it is there.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object an image, for scripts.")
@click.option("--view-img", is_flag=True, hidden=True)
@click.option("--visualize", is_flag=True, hidden=True)
@click.option("--update", is_flag=True, hidden=True)
def predict(sources: tuple[str, ...], named_source: str | None, weights: str, **options: Any) -> None:
    """Find objects on each SOURCE: an image, video, directory, "pattern", list (.txt), camera number, or the address of
    an image or stream.

    \b
    hpc-yolo predict images/ --weights runs/shapes
    hpc-yolo predict street.mp4 --weights yolov5s.pt --conf 0.5 --classes car,bus --save-txt
    hpc-yolo predict http://10.0.0.7/bus.jpg rtsp://10.0.0.7/live --weights yolov5n.pt --nosave --json

    Images with boxes go to <project>/<name>; the sources stay as they are, and results of earlier commands are no
    sources. Ctrl-C keeps what is written by then. A source that cannot be read, or whose results cannot be written, is
    named and does not end the others; the exit code is then 3.
    """
    from hpc_yolo.data.decode import silence_decoder
    from hpc_yolo.inference.predict import read_frames

    for flag in ("view_img", "visualize", "update"):
        if options[flag]:
            raise click.UsageError(f"--{flag.replace('_', '-')} is not there: look at the images in <project>/<name>")
    written = [*sources, *([named_source] if named_source else [])]
    if not written:
        raise click.UsageError("name a SOURCE: an image, a directory, a video, a camera's number, an address")
    silence_decoder()
    found = _find(written)
    predictor, names = _load(weights, options)
    outputs = _outputs(names, found, options)
    frames = read_frames(found, options["vid_stride"])
    failed = _predict_all(frames, predictor, outputs, names, as_json=options["as_json"])
    if failed:
        click.echo(f"{len(failed)} of {counted(len(found), 'source')} failed; each is named above", err=True)
        sys.exit(FAILED_SOURCES)


def _find(written: Sequence[str]) -> list[Source]:
    """Return all sources, each once; what stands for nothing is one that cannot be read.

    Raises:
        DataError: nothing stands for anything.
    """
    from hpc_yolo.inference.sources import Source, find_sources

    found: list[Source] = []
    for one in written:
        try:
            new = find_sources(one)
            found += new.sources
            for what in new.passed_over:
                click.echo(f"passed over: {what}", err=True)
        except DataError as error:
            found.append(Source(printable(one), problem=error))
    if all(source.problem is not None for source in found):
        problem = found[0].problem
        assert problem is not None
        raise problem
    return list(dict.fromkeys(found))


def _predict_all(
    frames: Iterator[Frame | Unreadable], predictor: Predictor, outputs: Outputs, names: Sequence[str], *, as_json: bool
) -> set[Source]:
    """Print and write what is found; return the sources of which something could not be read or written."""
    from hpc_yolo.inference.predict import Unreadable

    num_frames, seconds = 0, 0.0
    failed: set[Source] = set()

    def report(source: Source, errors: Iterable[DataError]) -> None:
        for error in errors:
            if source not in failed:  # of a video that cannot be written, one frame says enough
                click.echo(f"failed: {error}", err=True)
            failed.add(source)

    last: Source | None = None
    try:
        for frame in frames:
            if isinstance(frame, Unreadable):
                report(frame.source, [frame.error])
                continue
            if last is not None and frame.source != last:
                report(last, outputs.close())
            last = frame.source
            prediction = predictor(frame)
            report(frame.source, outputs.write(prediction))
            num_frames += 1
            seconds += prediction.seconds
            click.echo(json.dumps(prediction.as_dict(names)) if as_json else _line(prediction, names))
            if frame.remark:
                click.echo(f"{frame.source.name}: {frame.remark}", err=True)
    finally:
        frames.close()  # type: ignore[attr-defined]
        if last is not None:
            report(last, outputs.close())
    if num_frames:
        where = f"; results in {outputs.directory}" if outputs.writes else ""
        click.echo(f"{counted(num_frames, 'image')}, {1000 * seconds / num_frames:.1f} ms each{where}", err=True)
    return failed


def _line(prediction: Prediction, names: Sequence[str]) -> str:
    frame = prediction.frame
    height, width = frame.pixels.shape[:2]
    number = "" if frame.number is None else f" frame {frame.number}"
    found = f"{width}x{height}, {prediction.summary(names)}, {1000 * prediction.seconds:.1f} ms"
    return f"{frame.source.name}{number}: {found}"


def _load(weights: str, options: dict[str, Any]) -> tuple[Predictor, Sequence[str]]:
    from hpc_yolo.inference.model import load_inference_model
    from hpc_yolo.inference.predict import Predictor, PredictSettings

    named = find_weights(None, weights)
    asked = read_sides(options["imgsz"]) if options["imgsz"] else None
    loaded = load_inference_model(
        named.weights, device=options["device"], half=options["half"], augment=options["augment"]
    )
    loaded.require_size(asked)
    usual = named.imgsz or loaded.imgsz or DEFAULT_IMGSZ
    settings = PredictSettings(
        imgsz_hw=loaded.fixed_hw or whole_strides(asked or (usual, usual), loaded.stride),
        conf_threshold=options["conf_thres"],
        iou_threshold=options["iou_thres"],
        max_detections=options["max_det"],
        classes=_classes(options["classes"], loaded.names),
        agnostic=options["agnostic_nms"],
        augment=options["augment"],
        exact=loaded.fixed_hw is not None,
    )
    return Predictor(loaded.model, settings), loaded.names


def _outputs(names: Sequence[str], sources: Sequence[Source], options: dict[str, Any]) -> Outputs:
    from hpc_yolo.inference.outputs import Outputs, require_other_directory
    from hpc_yolo.inference.result_dirs import results_directory
    from hpc_yolo.plots.draw import Style

    writes = not options["nosave"] or options["save_txt"] or options["save_crop"]
    directory = options["project"] / options["name"]
    if writes and options["exist_ok"]:
        require_other_directory(directory, sources)
    return Outputs(
        directory=results_directory(options["project"], options["name"], exist_ok=options["exist_ok"])
        if writes
        else directory,
        names=names,
        images=not options["nosave"],
        labels=options["save_txt"],
        scores=options["save_conf"],
        crops=options["save_crop"],
        style=Style(options["line_thickness"], labels=not options["hide_labels"], scores=not options["hide_conf"]),
    )


def _classes(written: str | None, names: Sequence[str]) -> tuple[int, ...] | None:
    """Numbers of the classes that are named, by number or name."""
    if written is None:
        return None
    numbers = []
    for word in written.split(","):
        if word.strip().isdigit() and int(word) < len(names):
            numbers.append(int(word))
        elif word.strip() in names:
            numbers.append(list(names).index(word.strip()))
        else:
            raise click.UsageError(f"--classes {word}: there are {', '.join(names[:20])}, or 0 to {len(names) - 1}")
    return tuple(numbers)
