"""Writing of a video file, whose number of frames is checked when it is closed."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.text import printable
from hpc_yolo.data.images import Pixels

# (suffix, codec) in the order of the attempts: MPEG-4 supports sides below 8192 pixels, Motion JPEG larger ones.
FORMS = ((".mp4", "mp4v"), (".avi", "MJPG"))
IMAGE_SERIES = "CV_IMAGES"  # OpenCV's fallback, which writes numbered image files
MAX_TIMEBASE = 65535  # of MPEG-4: the largest denominator of the frame rate
MIN_FPS = 0.1


def writable_fps(fps: float) -> float:
    """Return `fps` with as many decimals as MPEG-4 can write: OpenCV turns 210.953 into 210953 / 1000."""
    fps = max(fps, MIN_FPS)
    return next(
        (rounded for digits in (3, 2, 1) if (rounded := round(fps, digits)) * 10**digits <= MAX_TIMEBASE), round(fps)
    )


class VideoFile:
    """Writer of a video. Frames of other sizes are scaled to the size of the first.

    Raises:
        DataError: no encoder supports such frames, or the file cannot be created.
    """

    def __init__(self, directory: Path, stem: str, fps: float, frame: Pixels) -> None:
        try:
            os.fspath(directory / stem).encode()
        except UnicodeEncodeError:  # OpenCV 5.0 would abort the process
            raise DataError(f"{printable(str(directory / stem))}: a video needs a path in UTF-8") from None
        height, width = (side + side % 2 for side in frame.shape[:2])  # encoders drop the last row of odd sides
        self._size_hw = height, width
        self._num_frames = 0
        for suffix, codec in FORMS:
            self.path = directory / f"{stem}{suffix}"
            code = cv2.VideoWriter_fourcc(*codec)  # type: ignore[attr-defined]
            self._writer = cv2.VideoWriter(str(self.path), code, writable_fps(fps), (width, height))
            if self._writer.isOpened() and self._writer.getBackendName() != IMAGE_SERIES:
                return
        raise DataError(
            f"{directory / stem}: no video of {width} x {height} pixels and {fps:g} fps can be written there"
        )

    def write(self, frame: Pixels) -> None:
        """Add a frame."""
        height, width = self._size_hw
        if frame.shape[0] + frame.shape[0] % 2 != height or frame.shape[1] + frame.shape[1] % 2 != width:
            frame = np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
        below, right = height - frame.shape[0], width - frame.shape[1]
        self._writer.write(cv2.copyMakeBorder(frame, 0, below, 0, right, cv2.BORDER_REPLICATE))
        self._num_frames += 1

    def close(self) -> None:
        """Finish the file and check the number of frames in its header.

        Raises:
            DataError: frames are missing; the encoder does not report a full disk.
        """
        self._writer.release()
        capture = cv2.VideoCapture(str(self.path))
        num_written = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if num_written < self._num_frames:
            raise DataError(
                f"{self.path}: {max(num_written, 0)} of {self._num_frames} frames are in the file",
                hint="check the free space and the quota",
            )
