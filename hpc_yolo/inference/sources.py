"""Where pictures to look at come from: files, folders, globs, lists, videos, cameras, streams."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hpc_yolo.data.image_suffixes import IMAGE_SUFFIXES
from hpc_yolo.data.images import Pixels, read_image
from hpc_yolo.errors import DataError

VIDEO_SUFFIXES = frozenset(
    (".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".wmv", ".webm")
)
STREAM_PREFIXES = ("http://", "https://", "rtsp://", "rtmp://", "tcp://", "udp://")
FALLBACK_FPS = 25.0
MAX_FPS = 1000.0  # more is a camera that does not know


@dataclass(frozen=True)
class Source:
    """One thing to look at: a picture, or a video of one kind or other. `name` is for people."""

    name: str
    path: Path | None = None  # of a file
    address: str | int | None = None  # of a camera or stream

    @property
    def is_picture(self) -> bool:
        return self.path is not None and self.path.suffix.lower() in IMAGE_SUFFIXES

    @property
    def stem(self) -> str:
        """What results are called after."""
        return (
            self.path.stem
            if self.path is not None
            else f"stream{self.address if isinstance(self.address, int) else ''}"
        )


@dataclass(frozen=True)
class Frame:
    """Pixels of a source; `number` counts a video's frames from 0 and is None for a picture. `fps` is the video's."""

    source: Source
    pixels: Pixels
    number: int | None = None
    fps: float = FALLBACK_FPS


def find_sources(written: str) -> list[Source]:
    """All sources that `written` stands for: a file, folder, glob, list (.txt), camera number or address.

    Raises:
        DataError: nothing is there, or nothing of it is a picture or a video.
    """
    if written.isdigit():
        return [Source(f"camera {written}", address=int(written))]
    if written.lower().startswith(STREAM_PREFIXES):
        return [Source(written, address=written)]
    path = Path(written)
    if path.is_dir():
        return _usable(sorted(item for item in path.rglob("*") if item.is_file()), f"{written} holds")
    if path.suffix == ".txt" and path.is_file():
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        return [source for line in lines if line for source in find_sources(line)]
    if path.is_file():
        return _usable([path], f"{written} is")
    found = (Path(match) for match in glob.glob(written, recursive=True))  # noqa: PTH207, it takes absolute patterns
    matches = sorted(match for match in found if match.is_file())
    if not matches:
        raise DataError(
            f"{written}: there is no such file or folder, and nothing matches it",
            hint="give a picture, a video, a folder, a pattern in quotes, a camera's number or a stream's address",
        )
    return _usable(matches, f"{written} matches")


def _usable(paths: list[Path], what: str) -> list[Source]:
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    sources = [Source(str(path), path) for path in paths if path.suffix.lower() in known]
    if not sources:
        suffixes = ", ".join(sorted(suffix.removeprefix(".") for suffix in known))
        raise DataError(f"{what} no picture and no video", hint=f"suffixes that are looked at: {suffixes}")
    return sources


def frames_of(source: Source, *, stride: int = 1) -> Iterator[Frame]:
    """The picture, or every `stride`-th frame of a video or stream.

    Raises:
        DataError: it cannot be opened or decoded.
    """
    if source.is_picture:
        yield Frame(source, read_image(str(source.path)))
        return
    capture = cv2.VideoCapture(source.address if source.address is not None else str(source.path))
    try:
        if not capture.isOpened():
            raise DataError(f"{source.name}: cannot be opened", hint=_camera_hint(source))
        told_fps = capture.get(cv2.CAP_PROP_FPS)
        fps = told_fps if 0 < told_fps < MAX_FPS else FALLBACK_FPS
        number = -1
        while capture.grab():
            number += 1
            if number % stride == 0:
                found, pixels = capture.retrieve()
                if found:
                    yield Frame(
                        source, np.asarray(pixels, dtype=np.uint8), number, fps if 0 < fps < 1000 else FALLBACK_FPS
                    )
        if number < 0:
            raise DataError(f"{source.name}: has no frame that can be decoded")
    finally:
        capture.release()


def _camera_hint(source: Source) -> str | None:
    if isinstance(source.address, int):
        return "see the cameras there are with: ls /dev/video*"
    return None if source.address is None else "is the address right, and does the stream run?"
