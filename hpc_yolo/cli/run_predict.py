"""Carry out `hpc-yolo predict`. Imports torch, so `predict.py` imports it when the command runs."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from hpc_yolo.cli.options import is_number, read_sides, whole_strides
from hpc_yolo.cli.weights_argument import find_weights
from hpc_yolo.core.errors import DataError
from hpc_yolo.core.text import printable
from hpc_yolo.core.units import counted
from hpc_yolo.data.decode import prepare_decoder
from hpc_yolo.inference.model import DEFAULT_IMGSZ, load_inference_model
from hpc_yolo.inference.outputs import Outputs, require_other_directory
from hpc_yolo.inference.predict import Prediction, Predictor, PredictSettings, Unreadable, read_frames
from hpc_yolo.inference.result_dirs import results_directory
from hpc_yolo.inference.sources import Frame, Source, find_sources
from hpc_yolo.plots.draw import Style


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """The options of `hpc-yolo predict`, under the names that click gives them."""

    imgsz: str | None
    conf_thres: float
    iou_thres: float
    max_det: int
    device: str
    classes: str | None
    agnostic_nms: bool
    augment: bool
    half: bool
    vid_stride: int
    nosave: bool
    save_txt: bool
    save_conf: bool
    save_crop: bool
    line_thickness: int | None
    hide_labels: bool
    hide_conf: bool
    project: Path
    name: str
    exist_ok: bool
    as_json: bool

    @property
    def writes(self) -> bool:
        """True if anything is written besides the printed lines."""
        return not self.nosave or self.save_txt or self.save_crop


def run_predict(written: Sequence[str], weights: str, options: PredictOptions) -> None:
    """Detect objects on the sources `written`; exit with the code of `DataError` if one of them failed.

    Raises:
        HpcYoloError: the model, an option or every source cannot be used.
    """
    prepare_decoder()
    sources = _find_sources(written)
    predictor, names = _load(weights, options)
    outputs = _outputs(names, sources, options)
    frames = read_frames(sources, options.vid_stride)
    with _interrupted_by_sigterm():
        failed = _predict_all(frames, predictor, outputs, names, as_json=options.as_json)
    if failed:
        click.echo(f"{len(failed)} of {counted(len(sources), 'source')} failed; each is named above", err=True)
        sys.exit(DataError.exit_code)


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM, with which Slurm ends a job, act as Ctrl-C: an open video is finished."""
    previous = signal.getsignal(signal.SIGTERM)
    if previous != signal.SIG_IGN:  # as in a script with: trap '' TERM
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _find_sources(written: Sequence[str]) -> list[Source]:
    """Return all sources, each once; one that cannot be found is a source with a problem.

    Raises:
        DataError: none can be found.
    """
    found: list[Source] = []
    for name in written:
        try:
            new = find_sources(name)
            found += new.sources
            for skipped in new.passed_over:
                click.echo(f"skipped: {skipped}", err=True)
        except DataError as error:
            found.append(Source(printable(name), problem=error))
    if all(source.problem is not None for source in found):
        problem = found[0].problem
        assert problem is not None
        raise problem
    return list(dict.fromkeys(found))


def _predict_all(
    frames: Generator[Frame | Unreadable],
    predictor: Predictor,
    outputs: Outputs,
    names: Sequence[str],
    *,
    as_json: bool,
) -> set[Source]:
    """Print and write the detections; return the sources that could not be read or whose results not be written."""
    num_frames, seconds = 0, 0.0
    failed: set[Source] = set()

    def report(source: Source, errors: Iterable[DataError]) -> None:
        for error in errors:
            if source not in failed:  # one frame of a video that cannot be written is enough
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
            _print(prediction, names, as_json=as_json)
    finally:
        frames.close()
        if last is not None:
            report(last, outputs.close())
    if num_frames:
        results = f"; results in {outputs.directory}" if outputs.writes else ""
        click.echo(f"{counted(num_frames, 'image')}, {1000 * seconds / num_frames:.1f} ms each{results}", err=True)
    return failed


def _print(prediction: Prediction, names: Sequence[str], *, as_json: bool) -> None:
    """Print a line of text or JSON for one frame."""
    frame = prediction.frame
    if as_json:
        click.echo(json.dumps(prediction.as_dict(names)))
    else:
        height, width = frame.pixels.shape[:2]
        number = "" if frame.number is None else f" frame {frame.number}"
        found = f"{width}x{height}, {prediction.summary(names)}, {1000 * prediction.seconds:.1f} ms"
        click.echo(f"{frame.source.name}{number}: {found}")
    if frame.remark:
        click.echo(f"{frame.source.name}: {frame.remark}", err=True)


def _load(weights: str, options: PredictOptions) -> tuple[Predictor, Sequence[str]]:
    """Return the model, ready to be used, and the names of its classes."""
    resolved = find_weights(None, weights)
    requested = read_sides(options.imgsz) if options.imgsz else None
    loaded = load_inference_model(resolved.weights, device=options.device, half=options.half, augment=options.augment)
    loaded.require_size(requested)
    usual = resolved.imgsz or loaded.imgsz or DEFAULT_IMGSZ
    settings = PredictSettings(
        imgsz_hw=loaded.fixed_hw or whole_strides(requested or (usual, usual), loaded.stride),
        conf_threshold=options.conf_thres,
        iou_threshold=options.iou_thres,
        max_detections=options.max_det,
        classes=_read_classes(options.classes, loaded.names),
        agnostic=options.agnostic_nms,
        augment=options.augment,
        exact=loaded.fixed_hw is not None,
    )
    applied = loaded.applied_settings(settings, lambda message: click.echo(message, err=True))
    return Predictor(loaded.model, applied), loaded.names


def _outputs(names: Sequence[str], sources: Sequence[Source], options: PredictOptions) -> Outputs:
    """Return where and what to write; the directory is created if anything is."""
    directory = options.project / options.name
    if options.writes and options.exist_ok:
        require_other_directory(directory, sources)
    if options.writes:
        directory = results_directory(options.project, options.name, exist_ok=options.exist_ok)
    return Outputs(
        directory=directory,
        names=names,
        images=not options.nosave,
        labels=options.save_txt,
        scores=options.save_conf,
        crops=options.save_crop,
        style=Style(options.line_thickness, labels=not options.hide_labels, scores=not options.hide_conf),
    )


def _read_classes(written: str | None, names: Sequence[str]) -> tuple[int, ...] | None:
    """Return the numbers of the classes in `written`, a list of numbers or names; None for all."""
    if written is None:
        return None
    numbers = []
    for entry in map(str.strip, written.split(",")):
        if is_number(entry) and int(entry) < len(names):
            numbers.append(int(entry))
            if entry in names and names[int(entry)] != entry:
                named = list(names).index(entry)
                message = f"--classes {entry}: is class {entry}, {names[int(entry)]!r}; {entry!r} is class {named}"
                click.echo(message, err=True)
        elif entry in names:
            numbers.append(list(names).index(entry))
        else:
            raise click.UsageError(f"--classes {entry}: there are {', '.join(names[:20])}, or 0 to {len(names) - 1}")
    return tuple(numbers)
