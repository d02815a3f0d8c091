"""Results that `predict` writes: drawn boxes, label files, crops. Names from data are escaped in file names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import cv2
import numpy as np

from hpc_yolo.core.errors import DataError, SpecError
from hpc_yolo.core.text import distinct, file_name
from hpc_yolo.data.images import Pixels
from hpc_yolo.inference.predict import Prediction
from hpc_yolo.inference.sources import Source
from hpc_yolo.inference.video import VideoFile
from hpc_yolo.plots.draw import Style, crop, draw_boxes

ANY_SUFFIX = ".png"  # if the source's format cannot hold the pixels, or OpenCV cannot write it


@dataclass
class Outputs:
    """Writer of predictions into `directory`. Call `close` after the last frame of each source."""

    directory: Path
    names: Sequence[str]
    images: bool = True
    labels: bool = False
    scores: bool = False
    crops: bool = False
    style: Style = field(default_factory=Style)
    _stems: Stems = field(default_factory=lambda: Stems())
    _video: VideoFile | None = None
    _video_failed: bool = False

    @property
    def writes(self) -> bool:
        """True if anything is written."""
        return self.images or self.labels or self.crops

    def write(self, prediction: Prediction) -> list[DataError]:
        """Write drawn boxes, label file and crops of a frame, and remove earlier ones of it; return the errors."""
        frame = prediction.frame
        errors: list[DataError] = []
        stem = self._stems.stem_of(frame.source, is_video=frame.number is not None)
        numbered = stem if frame.number is None else f"{stem}_{frame.number}"
        if self.images:
            errors += _attempt(partial(self._write_drawn, prediction, stem))
        if self.labels:
            errors += _attempt(partial(self._write_labels, prediction, numbered))
        if self.crops:
            errors += _attempt(partial(self._write_crops, prediction, numbered))
        return errors

    def close(self) -> list[DataError]:
        """Finish the open video, which is then playable; return the errors."""
        video, self._video, self._video_failed = self._video, None, False
        return _attempt(video.close) if video is not None else []

    @cached_property
    def _class_directories(self) -> list[str]:
        return distinct(map(file_name, self.names), ignore_case=True)

    def _write_drawn(self, prediction: Prediction, stem: str) -> None:
        frame = prediction.frame
        drawn = draw_boxes(frame.pixels, prediction.detections, self.names, self.style)
        if frame.number is None:
            _write_image(self.directory, stem, frame.source.suffix, drawn)
        elif not self._video_failed:
            self._video_failed = True  # until the write succeeds: one message per video is enough
            if self._video is None:
                self._video = VideoFile(self.directory, stem, frame.fps, drawn)
            self._video.write(drawn)
            self._video_failed = False

    def _write_labels(self, prediction: Prediction, name: str) -> None:
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
        path = self.directory / "labels" / f"{name}.txt"
        if lines:
            _write_file(path, "".join(lines).encode())
        else:
            _remove([path])

    @cached_property
    def _earlier_crops(self) -> dict[str, list[Path]]:
        """Crops before the first one is written, of an earlier command with the same results, by name of the frame."""
        earlier = defaultdict(list)
        for path in (self.directory / "crops").glob("*/*.jpg"):
            earlier[path.stem.rpartition("_")[0]].append(path)
        return earlier

    def _write_crops(self, prediction: Prediction, name: str) -> None:
        _remove(self._earlier_crops.pop(name, []))
        for number, row in enumerate(prediction.detections):
            directory = self.directory / "crops" / self._class_directories[int(row[5])]
            _write_image(directory, f"{name}_{number}", ".jpg", crop(prediction.frame.pixels, row))


class Stems:
    """Assigns each source a unique name for its results, also unique with a frame number appended."""

    def __init__(self) -> None:
        self._stems: dict[Source, str] = {}
        self._taken: set[str] = set()
        self._videos: set[str] = set()  # names to which frame numbers are appended
        self._beginnings: set[str] = set()  # stems that end in a number, without the number

    def stem_of(self, source: Source, *, is_video: bool) -> str:
        """Return the name; always the same for the same source."""
        if source not in self._stems:
            stem, number = source.stem, 1
            between = "-" if stem in self._videos else "_"  # a video's stem followed by _2 is its second frame
            while not self._is_free(stem, is_video):
                number += 1
                stem = f"{source.stem}{between}{number}"
            self._stems[source] = stem
            self._taken.add(stem)
            if is_video:
                self._videos.add(stem)
            if numbered := _NUMBERED.fullmatch(stem):
                self._beginnings.add(numbered[1])
        return self._stems[source]

    def _is_free(self, stem: str, is_video: bool) -> bool:
        numbered = _NUMBERED.fullmatch(stem)
        return not (
            stem in self._taken
            or (is_video and stem in self._beginnings)
            or (numbered is not None and numbered[1] in self._videos)
        )


_NUMBERED = re.compile(r"(.+)_[0-9]+", re.DOTALL)


def require_other_directory(directory: Path, sources: Sequence[Source]) -> None:
    """Refuse to write results over sources.

    Raises:
        SpecError: sources lie in `directory` itself.
    """
    real = directory.resolve()
    for source in sources:
        if source.path is not None and source.path.parent.resolve() == real:
            raise SpecError(
                f"--project, --name: results would be written over the sources in {directory}",
                hint="give another --name, or leave --exist-ok out",
            )


def _attempt(write: Callable[[], None]) -> list[DataError]:
    try:
        write()
    except DataError as error:
        return [error]
    return []


def _write_image(directory: Path, stem: str, suffix: str, pixels: Pixels) -> None:
    """Write `stem` with `suffix` if that format can hold the pixels, else as a PNG."""
    for form in dict.fromkeys((suffix or ".jpg", ANY_SUFFIX)):
        content = _encoded(form, pixels)
        if content is not None:
            _write_file(directory / f"{stem}{form}", content)
            return
    raise DataError(f"{directory / stem}: {pixels.shape[1]} x {pixels.shape[0]} pixels cannot be encoded")


def _encoded(suffix: str, pixels: Pixels) -> bytes | None:
    try:
        if not cv2.haveImageWriter(f"image{suffix}"):
            return None
        done, content = cv2.imencode(suffix, pixels)
    except cv2.error:  # for example, more pixels than the format can hold
        return None
    return np.asarray(content).tobytes() if done else None


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"{path}: of an earlier command, cannot be removed: {error.strerror}") from error


def _write_file(path: Path, content: bytes) -> None:
    """Write `content`; on an error remove the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            try:
                file.write(content)
                file.flush()
            except OSError:
                path.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error
