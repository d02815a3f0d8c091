"""A network used on pictures and videos: what it finds, drawn, written and told."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from hpc_yolo.data.images import Pixels, letterbox, to_chw_rgb
from hpc_yolo.errors import DataError
from hpc_yolo.evaluation.nms import non_max_suppression
from hpc_yolo.inference.sources import Frame, Source, frames_of
from hpc_yolo.models import Detector
from hpc_yolo.models.tta import augmented_forward
from hpc_yolo.plots.draw import Style, crop, draw_boxes

READ_AHEAD = 4  # frames decoded while the network works


@dataclass(frozen=True)
class PredictSettings:
    """`imgsz_hw`: the picture is scaled to fit into these sides (pixels). Thresholds as in non-maximum suppression."""

    imgsz_hw: tuple[int, int]
    conf_threshold: float = 0.25
    iou_threshold: float = 0.45
    max_detections: int = 1000
    classes: tuple[int, ...] | None = None
    agnostic: bool = False
    augment: bool = False


@dataclass(frozen=True)
class Prediction:
    """What was found on a frame: rows (n, 6) of xyxy in the frame's pixels, score, class, the surest first."""

    frame: Frame
    detections: list[list[float]]
    seconds: float

    def summary(self, names: Sequence[str]) -> str:
        """How many of what, in words."""
        counts = Counter(int(row[5]) for row in self.detections)
        return ", ".join(f"{number} {names[kind]}" for kind, number in sorted(counts.items())) or "nothing"

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """For JSON."""
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
        about = {"source": self.frame.source.name, "frame": self.frame.number, "width": width, "height": height}
        return about | {"detections": boxes}


class Predictor:
    """A network in evaluation mode on its device, used a frame at a time."""

    def __init__(self, model: Detector, settings: PredictSettings) -> None:
        self.model, self.settings = model, settings
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.stride = model.picture_stride

    @torch.inference_mode()
    def __call__(self, frame: Frame) -> Prediction:
        """What is on `frame`."""
        started_s = time.perf_counter()
        settings = self.settings
        framed, ratio, (left, top) = letterbox(frame.pixels, settings.imgsz_hw, auto=True, stride=self.stride)
        images = torch.from_numpy(to_chw_rgb(framed))[None].to(self.device, self.dtype) / 255
        decoded = augmented_forward(self.model, images) if settings.augment else self.model(images)[0]
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


def read_frames(sources: Iterable[Source], stride: int) -> Iterator[Frame | DataError]:
    """Frames of all sources, decoded ahead in a thread; what cannot be read comes as its error, then the rest."""
    ahead: queue.Queue[Frame | DataError | None] = queue.Queue(READ_AHEAD)
    stopped = threading.Event()

    def put(item: Frame | DataError | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ahead.put(item, timeout=0.1)
                return

    def read() -> None:
        for source in sources:
            try:
                for frame in frames_of(source, stride=stride):
                    put(frame)
                    if stopped.is_set():
                        return
            except DataError as error:
                put(error)
        put(None)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while (item := ahead.get()) is not None:
            yield item
    finally:
        stopped.set()
        thread.join()


@dataclass
class Outputs:
    """What is written into `folder` of each prediction."""

    folder: Path
    names: Sequence[str]
    pictures: bool = True
    labels: bool = False
    scores: bool = False
    crops: bool = False
    style: Style = field(default_factory=Style)
    _videos: dict[str, cv2.VideoWriter] = field(default_factory=dict)
    _used: set[Path] = field(default_factory=set)
    _stems: dict[str, str] = field(default_factory=dict)

    def write(self, prediction: Prediction) -> None:
        """Draw, crop and list what was found."""
        frame = prediction.frame
        stem = self._stem(frame.source)
        if self.pictures:
            drawn = draw_boxes(frame.pixels, prediction.detections, self.names, self.style)
            self._write_drawn(frame, stem, drawn)
        numbered = stem if frame.number is None else f"{stem}_{frame.number}"
        if self.labels and prediction.detections:
            self._write_labels(numbered, prediction)
        if self.crops:
            for number, row in enumerate(prediction.detections):
                folder = self.folder / "crops" / self.names[int(row[5])].replace("/", "_")
                folder.mkdir(parents=True, exist_ok=True)
                _write_picture(folder / f"{numbered}_{number}.jpg", crop(frame.pixels, row))

    def close(self) -> None:
        """Finish the videos; what was written of them stays playable."""
        for video in self._videos.values():
            video.release()
        self._videos.clear()

    def _stem(self, source: Source) -> str:
        """A name that no other source of this run has: folders may hold pictures of one name."""
        if source.name not in self._stems:
            taken = set(self._stems.values())
            stem, number = source.stem, 1
            while stem in taken:
                number += 1
                stem = f"{source.stem}_{number}"
            self._stems[source.name] = stem
        return self._stems[source.name]

    def _write_drawn(self, frame: Frame, stem: str, drawn: Pixels) -> None:
        if frame.number is None:
            suffix = frame.source.path.suffix if frame.source.path is not None else ".jpg"
            _write_picture(self.folder / f"{stem}{suffix}", drawn)
            return
        if stem not in self._videos:
            height, width = drawn.shape[:2]
            code = cv2.VideoWriter_fourcc(*"mp4v")  # type: ignore[attr-defined]
            self._videos[stem] = cv2.VideoWriter(str(self.folder / f"{stem}.mp4"), code, frame.fps, (width, height))
        self._videos[stem].write(drawn)

    def _write_labels(self, name: str, prediction: Prediction) -> None:
        height, width = prediction.frame.pixels.shape[:2]
        lines = []
        for left, top, right, bottom, score, kind in prediction.detections:
            box = (
                (left + right) / 2 / width,
                (top + bottom) / 2 / height,
                (right - left) / width,
                (bottom - top) / height,
            )
            numbers = [*box, score] if self.scores else [*box]
            lines.append(f"{int(kind)} " + " ".join(f"{number:g}" for number in numbers) + "\n")
        folder = self.folder / "labels"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.txt").write_text("".join(lines))


def _write_picture(path: Path, pixels: Pixels) -> None:
    encoded, content = cv2.imencode(path.suffix if path.suffix.lower() not in (".mpo", ".pfm") else ".png", pixels)
    if not encoded:
        raise DataError(f"{path}: cannot be encoded as {path.suffix}")
    path.write_bytes(np.asarray(content).tobytes())
