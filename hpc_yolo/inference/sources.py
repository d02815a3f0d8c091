"""Sources of images for `predict`: files, directories, patterns, lists, videos, cameras, addresses."""

from __future__ import annotations

import contextlib
import glob
import os
import tempfile
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.text import file_name, printable, shortened_name
from hpc_yolo.core.units import counted
from hpc_yolo.data.decode import Pixels, decode_image, describe_content, is_cut_off, lacks_end_mark
from hpc_yolo.data.image_lists import ImageSearch, list_lines
from hpc_yolo.data.image_suffixes import IMAGE_SUFFIXES, UNREADABLE_SUFFIXES
from hpc_yolo.inference.fetch import WEB_PREFIXES, fetch_image
from hpc_yolo.inference.result_dirs import holds_results
from hpc_yolo.inference.video import IMAGE_SERIES

VIDEO_SUFFIXES = frozenset(
    (".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".wmv", ".webm")
)
PLAYLIST_SUFFIXES = frozenset((".m3u8", ".mpd"))
STREAM_PREFIXES = (*WEB_PREFIXES, "rtsp://", "rtmp://", "tcp://", "udp://")
FALLBACK_FPS = 25.0
MAX_FPS = 1000.0  # a higher value is not the rate of a camera
# Containers whose header has the exact number of frames; others have an estimate.
COUNTED_SUFFIXES = frozenset((".avi", ".m4v", ".mov", ".mp4"))
MAX_CAMERA_DIGITS = 2
MAX_NAMED = 3  # directories in a message
MAX_MISSING_FRAMES = 3  # or a twentieth: frames that a container counts and no decoder returns


@dataclass(frozen=True)
class Source:
    """An image, or a video of any kind.

    Attributes:
        name: shown in messages.
        path: of a file.
        address: of a camera (its number), a stream, or an image on a server.
        problem: why it cannot be read, if that is known in advance.
    """

    name: str
    path: Path | None = None
    address: str | int | None = None
    problem: DataError | None = None

    @property
    def suffix(self) -> str:
        """Suffix of the file, also of one on a server."""
        if self.path is not None:
            return self.path.suffix
        return Path(_address_path(self.address)).suffix if isinstance(self.address, str) else ""

    @property
    def stem(self) -> str:
        """Name of the results, without a suffix."""
        if self.path is not None:
            stem = self.path.stem
            return shortened_name(stem) if stem.isprintable() else file_name(stem)
        if isinstance(self.address, str):
            return file_name(Path(_address_path(self.address)).stem or "stream")
        return f"stream{self.address if self.address is not None else ''}"


@dataclass(frozen=True)
class Frame:
    """Pixels of a source; `number` counts a video's frames from 0 and is None for an image. `fps` is the video's.

    `remark` is a message about the image for the user.
    """

    source: Source
    pixels: Pixels
    number: int | None = None
    fps: float = FALLBACK_FPS
    remark: str = ""


@dataclass(frozen=True)
class Found:
    """Sources, and messages about what was skipped."""

    sources: list[Source]
    passed_over: tuple[str, ...] = ()


def find_sources(written: str) -> Found:
    """Return all sources that `written` names: a file, directory, pattern, list (.txt), camera number or address.

    Results of earlier commands below a directory or pattern are skipped. A line of a list that names nothing
    becomes a source with a problem.

    Raises:
        DataError: nothing exists there, or none of it is an image or a video.
    """
    path = Path(written)
    if _is_camera(written) and not os.path.lexists(path):
        return Found([Source(f"camera {written}", address=int(written))])
    if written.lower().startswith(STREAM_PREFIXES):
        return Found([Source(_without_password(written), address=written)])
    if "://" in written:
        raise DataError(
            f"{_without_password(written)}: addresses of this kind are not supported",
            hint=f"addresses begin with {', '.join(STREAM_PREFIXES)}",
        )
    try:
        if path.is_dir():
            return _of_directory(path)
        if path.is_file():
            return _of_list(path) if path.suffix.lower() == ".txt" else _usable([path], f"{printable(written)} is")
        return _of_pattern(written)
    except (OSError, ValueError) as error:  # a name that is too long, or with a zero byte in it
        message = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{printable(written)}: cannot be read: {message}") from error


def _is_camera(written: str) -> bool:
    """Return whether `written` is a camera's number; OpenCV takes the hundreds of a larger one as another interface."""
    return written.isdecimal() and len(written) <= MAX_CAMERA_DIGITS


def _of_directory(directory: Path) -> Found:
    problems: list[Source] = []

    def refuse(error: OSError) -> None:
        problem = DataError(f"{printable(str(error.filename))}: cannot be listed: {error.strerror}")
        problems.append(Source(printable(str(error.filename)), problem=problem))

    paths: list[Path] = []
    seen: set[str] = set()
    results: list[Path] = []
    for parent, directories, files in os.walk(directory, followlinks=True, onerror=refuse):
        if (real := os.path.realpath(parent)) in seen:  # links may form a cycle
            directories.clear()
            continue
        seen.add(real)
        if Path(parent) != directory and holds_results(Path(parent)):
            directories.clear()
            results.append(Path(parent))
            continue
        paths += [path for name in files if _is_image_or_video(path := Path(parent, name)) and path.is_file()]
    found = _usable(sorted(paths), f"{printable(str(directory))} holds", results, allow_none=bool(problems))
    return replace(found, sources=[*found.sources, *problems])


def _of_pattern(pattern: str) -> Found:
    matches = [Path(match) for match in glob.glob(pattern, recursive=True)]  # noqa: PTH207, it takes absolute patterns
    files = sorted(match for match in matches if match.is_file())
    if not files:
        raise DataError(
            f"{printable(pattern)}: there is no such file or directory, and nothing matches it",
            hint="give an image, a video, a directory, a pattern in quotes, a camera's number or an address",
        )
    named = Path(*_fixed_parts(pattern))  # a directory that the user names is read even if it holds results
    below = {parent for file in files for parent in file.parents} - {named, *named.parents}
    results = {directory for directory in below if holds_results(directory)}
    sources = [file for file in files if not results & set(file.parents)]
    return _usable(sources, f"{printable(pattern)} matches", sorted(results))


def _fixed_parts(pattern: str) -> list[str]:
    parts: list[str] = []
    for part in Path(pattern).parts:
        if glob.has_magic(part):
            break
        parts.append(part)
    return parts


def _of_list(path: Path) -> Found:
    """Return the sources that the lines of a list name, read like the lists of a dataset."""
    search = ImageSearch(path)
    sources: list[Source] = []
    passed_over: tuple[str, ...] = ()
    for number, written in list_lines(path):
        where = f"{printable(str(path))}:{number}"
        try:
            if written.lower().endswith(".txt"):
                raise DataError(f"{printable(written)}: a list inside a list is not supported")
            found = find_sources(_meant_by_line(search, written, where))
            sources += found.sources
            passed_over += found.passed_over
        except DataError as error:
            message = error.message if error.message.startswith(where) else f"{where}: {error.message}"
            sources.append(Source(where, problem=DataError(message, hint=error.hint)))
    if not sources:
        raise DataError(f"{printable(str(path))}: is an empty list")
    return Found(sources, passed_over)


def _meant_by_line(search: ImageSearch, written: str, where: str) -> str:
    """Return the file that a line names, relative to the working directory or to the list; else the line itself."""
    if os.path.lexists(written) or written.lower().startswith(STREAM_PREFIXES):
        return written
    return str(search.find(written, where) or written)


def _usable(paths: list[Path], what: str, results: Sequence[Path] = (), *, allow_none: bool = False) -> Found:
    """Return the images and videos among `paths`.

    Args:
        what: first words of the error message, such as "images/ holds".
        results: directories that were skipped, since they hold results of earlier commands.
        allow_none: accept no source, because a problem is reported.
    """
    sources = [Source(printable(str(path)), path) for path in paths if _is_known(path)]
    unreadable = [suffix for path in paths if (suffix := path.suffix.lower()) in UNREADABLE_SUFFIXES]
    passed_over = []
    if results:
        more = f" and {len(results) - MAX_NAMED} more" if len(results) > MAX_NAMED else ""
        where = ", ".join(printable(str(directory)) for directory in results[:MAX_NAMED])
        passed_over.append(f"results of earlier commands in {where}{more}; name such a directory to use them")
    if unreadable:
        kinds = ", ".join(sorted(set(unreadable)))
        passed_over.append(f"{counted(len(unreadable), 'file')} of formats that are not supported: {kinds}")
    if not sources and not allow_none:
        suffixes = ", ".join(sorted(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES))
        raise DataError(
            f"{what} no image and no video{''.join(f'; {text}' for text in passed_over)}",
            hint="convert them to JPEG or PNG" if unreadable else f"supported suffixes: {suffixes}",
        )
    return Found(sources, tuple(passed_over))


def _is_known(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES or path.suffix.lower() in VIDEO_SUFFIXES


def _is_image_or_video(path: Path) -> bool:
    return _is_known(path) or path.suffix.lower() in UNREADABLE_SUFFIXES


def frames_of(source: Source, *, stride: int = 1) -> Iterator[Frame]:
    """Yield the image, or every `stride`-th frame of a video or stream.

    Raises:
        DataError: it cannot be opened or decoded, or a video is incomplete; its frames are yielded before.
    """
    if source.problem is not None:
        raise source.problem
    if source.path is not None and source.suffix.lower() in IMAGE_SUFFIXES:
        try:
            content = source.path.read_bytes()
        except OSError as error:
            raise DataError(f"{source.name}: cannot be read: {error.strerror}") from error
        yield _image(source, content)
        return
    reason = ""
    if _may_serve_image(source):
        must_be_image = source.suffix.lower() in IMAGE_SUFFIXES
        try:
            fetched = fetch_image(str(source.address), must_be_image=must_be_image)
        except DataError as error:
            if must_be_image:
                raise DataError(f"{source.name}: {error.message}", hint=error.hint) from error
            fetched, reason = None, f": {error.message}"
        if fetched is not None:
            yield _image(source, fetched)
            return
    yield from _video_frames(source, stride, reason)


def _image(source: Source, content: bytes) -> Frame:
    pixels = decode_image(content)
    if pixels is None:
        raise DataError(f"{source.name}: cannot be decoded: {describe_content(content)}")
    is_part = lacks_end_mark(content) and is_cut_off(content, pixels)
    return Frame(source, pixels, remark="the JPEG is cut off; the existing part is used" if is_part else "")


def _may_serve_image(source: Source) -> bool:
    address = source.address
    if not isinstance(address, str) or not address.lower().startswith(WEB_PREFIXES):
        return False
    return source.suffix.lower() not in VIDEO_SUFFIXES | PLAYLIST_SUFFIXES


def _video_frames(source: Source, stride: int, reason: str) -> Iterator[Frame]:
    """Yield frames of a video file, camera or stream. `reason`: of a failed request to its server, for the error."""
    with _opened_name(source) as name:
        capture = cv2.VideoCapture(name)
    try:
        if not capture.isOpened() or capture.getBackendName() == IMAGE_SERIES:
            raise DataError(f"{source.name}: cannot be opened{reason}", hint=_hint(source))
        reported_fps = capture.get(cv2.CAP_PROP_FPS)
        fps = reported_fps if 0 < reported_fps < MAX_FPS else FALLBACK_FPS
        number, num_decoded = -1, 0
        while capture.grab():
            number += 1
            if number % stride == 0:
                found, pixels = capture.retrieve()
                if found:
                    num_decoded += 1
                    yield Frame(source, _bgr(pixels), number, fps)
        if num_decoded == 0:
            raise DataError(f"{source.name}: has no frame that can be decoded")
        expected = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if source.suffix.lower() in COUNTED_SUFFIXES else 0
        if number + 1 + max(MAX_MISSING_FRAMES, expected // 20) < expected:
            raise DataError(f"{source.name}: ends after {number + 1} of {expected} frames; the file is damaged")
    except cv2.error as error:
        raise DataError(f"{source.name}: cannot be decoded further: {error}") from error
    finally:
        capture.release()


@contextlib.contextmanager
def _opened_name(source: Source) -> Iterator[str | int]:
    """Yield a name for OpenCV: an absolute path, so that a colon in it does not make it a URL, or a link to it.

    OpenCV 5.0 aborts the process on a path that is not UTF-8; a temporary link with a plain name replaces it.
    """
    if source.path is None:
        yield source.address if source.address is not None else ""
        return
    path = source.path.absolute()
    if not any("\ud800" <= letter <= "\udfff" for letter in str(path)):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as directory:
        link = Path(directory, f"video{path.suffix}")
        link.symlink_to(path)
        yield str(link)


def _bgr(pixels: object) -> Pixels:
    frame = np.asarray(pixels)
    if frame.ndim == 2 or frame.shape[2] == 1:
        frame = cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)
    return np.asarray(frame[:, :, :3], dtype=np.uint8)


def _hint(source: Source) -> str | None:
    if isinstance(source.address, int):
        return "list the cameras with: ls /dev/video*"
    return None if source.address is None else "check the address, and that the stream is running"


def _address_path(address: str) -> str:
    try:
        return urllib.parse.unquote(urllib.parse.urlsplit(address).path)
    except ValueError:  # invalid brackets around a host; opening it raises the error
        return ""


def _without_password(address: str) -> str:
    """Return `address` without its password, for messages."""
    before, scheme, rest = address.partition("://")
    authority, slash, path = rest.partition("/")
    userinfo, at, host = authority.rpartition("@")
    shown = f"{userinfo.partition(':')[0]}:***@{host}" if at and ":" in userinfo else authority
    return printable(f"{before}{scheme}{shown}{slash}{path}")
