"""Detection of objects on frames of images and videos. `outputs` writes the results."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.text import printable
from hpc_yolo.data.images import letterbox, to_chw_rgb
from hpc_yolo.evaluation.nms import non_max_suppression
from hpc_yolo.inference.exported import ExportedModel
from hpc_yolo.inference.sources import Frame, Source, frames_of
from hpc_yolo.models import Detector
from hpc_yolo.models.tta import augmented_forward

READ_AHEAD = 4  # frames decoded while the model runs


@dataclass(frozen=True)
class PredictSettings:
    """Image size and settings of non-maximum suppression.

    Attributes:
        imgsz_hw: sides in pixels into which the image is scaled to fit.
        exact: pad it to exactly these sides, not only to the next multiples of the stride.
    """

    imgsz_hw: tuple[int, int]
    conf_threshold: float = 0.25
    iou_threshold: float = 0.45
    max_detections: int = 1000
    classes: tuple[int, ...] | None = None
    agnostic: bool = False
    augment: bool = False
    exact: bool = False


@dataclass(frozen=True)
class Prediction:
    """The detections on a frame: rows (n, 6) of xyxy in the frame's pixels, score, class; highest score first."""

    frame: Frame
    detections: list[list[float]]
    seconds: float

    def summary(self, names: Sequence[str]) -> str:
        """Return the number of detections of each class, as text."""
        counts = Counter(int(row[5]) for row in self.detections)
        return ", ".join(f"{number} {printable(names[kind])}" for kind, number in sorted(counts.items())) or "nothing"

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the detections for JSON."""
        height, width = self.frame.pixels.shape[:2]
        boxes = [
            {
                "class": int(row[5]),
                "name": names[int(row[5])],
                "confidence": round(row[4], 5),
                "xyxy": [round(x, 2) for x in row[:4]],
            }
            for row in self.detections
        ]
        source = self.frame.source
        name = str(source.path) if source.path is not None else source.name  # JSON has its own escapes
        about = {"source": name, "frame": self.frame.number, "width": width, "height": height}
        return about | {"detections": boxes}


class Predictor:
    """A model in evaluation mode on its device, applied to one frame at a time."""

    def __init__(self, model: Detector | ExportedModel, settings: PredictSettings) -> None:
        self.model, self.settings = model, settings
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.stride = model.image_stride

    @torch.inference_mode()
    def __call__(self, frame: Frame) -> Prediction:
        """Return the detections on `frame`."""
        started_s = time.perf_counter()
        settings = self.settings
        framed, ratio, (left, top) = letterbox(
            frame.pixels, settings.imgsz_hw, auto=not settings.exact, stride=self.stride
        )
        images = torch.from_numpy(to_chw_rgb(framed))[None].to(self.device, self.dtype) / 255
        if settings.augment and isinstance(self.model, Detector):
            decoded = augmented_forward(self.model, images)
        else:
            decoded = self.model(images)[0]
        (found,) = non_max_suppression(
            decoded,
            conf_threshold=settings.conf_threshold,
            iou_threshold=settings.iou_threshold,
            max_detections=settings.max_detections,
            multi_label=False,
            agnostic=settings.agnostic,
            classes=settings.classes,
        )
        rows = found.double().cpu().numpy()
        height, width = frame.pixels.shape[:2]
        rows[:, [0, 2]] = ((rows[:, [0, 2]] - round(left - 0.1)) / ratio).clip(0, width)
        rows[:, [1, 3]] = ((rows[:, [1, 3]] - round(top - 0.1)) / ratio).clip(0, height)
        return Prediction(frame, rows.tolist(), time.perf_counter() - started_s)


@dataclass(frozen=True)
class Unreadable:
    """A source that cannot be read, or not completely."""

    source: Source
    error: DataError


def read_frames(sources: Iterable[Source], stride: int) -> Generator[Frame | Unreadable]:
    """Yield the frames of all sources, decoded in a thread. A source that cannot be read does not stop the others.

    Raises:
        Exception: any other error in the thread, which is a bug.
    """
    ahead: queue.Queue[Frame | Unreadable | Exception | None] = queue.Queue(READ_AHEAD)
    stopped = threading.Event()

    def put(item: Frame | Unreadable | Exception | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ahead.put(item, timeout=0.1)
                return

    def read() -> None:
        try:
            for item in _frames_or_errors(sources, stride):
                put(item)
                if stopped.is_set():
                    return
            put(None)
        except Exception as error:  # else the consumer would wait for the next frame for ever
            put(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while (item := ahead.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def _frames_or_errors(sources: Iterable[Source], stride: int) -> Iterator[Frame | Unreadable]:
    for source in sources:
        try:
            yield from frames_of(source, stride=stride)
        except DataError as error:
            yield Unreadable(source, error)
