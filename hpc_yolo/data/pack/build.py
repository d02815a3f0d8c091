"""Making a packed set: shard after shard, then the indexes, the dataset YAML and the manifest.

A killed process leaves finished shards, with their entries in `.packing`; the same call again checks their CRC and goes
on with the next one.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import msgspec

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.files import (
    atomic_writer,
    exclusive_lock,
    read_struct,
    remove_unpublished,
    write_atomic,
    write_struct,
)
from hpc_yolo.core.units import counted, short_bytes
from hpc_yolo.data.dataset import Dataset
from hpc_yolo.data.dataset_paths import DATASET_FILE
from hpc_yolo.data.labels import Examples, ImageIndex
from hpc_yolo.data.pack.encode import (
    FinishedShard,
    content_digest,
    dataset_content,
    index_content,
    same_as,
)
from hpc_yolo.data.pack.index import open_index
from hpc_yolo.data.pack.layout import (
    MANIFEST,
    UNFINISHED,
    Manifest,
    Options,
    PackedFile,
    index_name,
    read_manifest,
    shard_name,
)
from hpc_yolo.data.pack.members import SplitSource, content_states, member_names, names_base
from hpc_yolo.data.pack.shard import ShardWriter, total_bytes
from hpc_yolo.data.pack.verify import file_crc32

MODE = 0o644
MAX_SHARDS = 500  # of a split: each is an open file in every process of a training
FULL = {errno.ENOSPC: "is full", errno.EDQUOT: "is over its quota", errno.EFBIG: "does not take files of this size"}

OnProgress = Callable[[int, int], None]


class _State(msgspec.Struct, frozen=True):
    """What an unfinished set is made of: the digest of its manifest, and one of the times of the source's files."""

    content: str
    files: str


@dataclass(frozen=True)
class PackResult:
    """A packed set.

    Attributes:
        num_kept: images that an earlier, interrupted call has packed; all where the set was complete.
    """

    manifest: Manifest
    num_kept: int


def pack_dataset(
    dataset: Dataset,
    indexes: Mapping[str, ImageIndex],
    directory: Path,
    options: Options,
    on_progress: OnProgress = lambda _done, _total: None,
) -> PackResult:
    """Pack the splits `indexes` of `dataset` into `directory`, or go on where an interrupted call has stopped.

    A complete set in `directory` is kept; its images are compared with those of `dataset`.

    Args:
        indexes: their usable images, as `scan_split` returns them, by the name of the split.
        on_progress: called with (images packed or compared, all images).

    Raises:
        DataError: an image cannot be read, `directory` has other content, or it cannot be written.
    """
    sources = {split: _source(dataset, index, options) for split, index in _distinct(dataset, indexes).items()}
    content = content_digest(dataset, sources)
    num_images = sum(source.index.num_images for source in sources.values())
    progress = _Progress(on_progress, num_images)
    with _writing_into(directory):
        if (directory / MANIFEST).exists():
            return PackResult(_same_set(directory, content, sources, progress), num_images)
        _require_space(directory, sources)
        state = _State(content, " ".join(_version_of(source) for source in sources.values()))
        with _only_packer(directory, state):
            remove_unpublished(directory)
            for split, source in sources.items():
                progress.kept += _pack_split(directory, split, source, progress)
            for source in sources.values():
                source.require_unchanged()
            manifest = _finish(directory, dataset, sources, content, indexes)
    return PackResult(manifest, progress.kept)


@dataclass
class _Progress:
    """Counts of packed images over all splits."""

    on_progress: OnProgress
    total: int
    done: int = 0
    kept: int = 0

    def add(self, num_images: int = 1) -> None:
        """Count packed images."""
        self.done += num_images
        self.on_progress(self.done, self.total)


def _distinct(dataset: Dataset, indexes: Mapping[str, ImageIndex]) -> dict[str, ImageIndex]:
    """Return the splits that are packed: of two that are the same files only the first."""
    return {split: index for split, index in indexes.items() if same_as(dataset, split) == split}


def _source(dataset: Dataset, index: ImageIndex, options: Options) -> SplitSource:
    base = names_base(index, dataset.root)
    return SplitSource(index, base, member_names(index, base, options.size), content_states(index), options)


def _version_of(source: SplitSource) -> str:
    """Return a digest that changes when a file does."""
    return hashlib.sha256(repr(list(source.states)).encode()).hexdigest()


def _pack_split(directory: Path, split: str, source: SplitSource, progress: _Progress) -> int:
    """Write the shards of a split that are missing; return the number of images in those that were there."""
    shards = _finished_shards(directory, split, progress)
    num_kept = sum(len(shard.entries) for shard in shards)
    members = source.members(num_kept)
    following, number = next(members, None), len(shards)
    while following is not None:
        if number == MAX_SHARDS:
            raise DataError(
                f"{split}: more than {MAX_SHARDS} shards of {short_bytes(source.options.shard_bytes)}",
                hint="set a larger --shard-size",
            )
        path = directory / shard_name(split, number)
        with atomic_writer(path, mode=MODE) as file:
            writer = ShardWriter(file, source.options.shard_bytes)
            entries, following = writer.fill(following, members, progress.add)
        write_struct(_record_path(directory, path), FinishedShard(PackedFile(writer.size, writer.crc32), entries))
        number += 1
    return num_kept


def _finished_shards(directory: Path, split: str, progress: _Progress) -> list[FinishedShard]:
    """Return the shards of a split that are complete, in their order, and remove the record of the first other one."""
    shards: list[FinishedShard] = []
    while True:
        path = directory / shard_name(split, len(shards))
        record = read_struct(_record_path(directory, path), FinishedShard)
        if record is None or not path.is_file() or path.stat().st_size != record.file.size:
            return shards
        if file_crc32(path) != record.file.crc32:
            return shards
        progress.add(len(record.entries))
        shards.append(record)


def _record_path(directory: Path, shard: Path) -> Path:
    return directory / UNFINISHED / f"{shard.stem}.json"


def _require_space(directory: Path, sources: Mapping[str, SplitSource]) -> None:
    """Check that the set has room, before an unfinished one is begun that would refuse other options."""
    copied = (source.lengths for source in sources.values() if source.options.size is None)
    needed = sum(map(total_bytes, copied))
    kept = sum(path.stat().st_size for path in directory.iterdir() if path.is_file()) if directory.is_dir() else 0
    existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free + kept:
        raise DataError(
            f"{directory}: {short_bytes(needed - kept)} are needed, and {short_bytes(free)} are free",
            hint="choose a directory on another file system, or make the images smaller with --size 1280",
        )


def _finish(
    directory: Path,
    dataset: Dataset,
    sources: Mapping[str, SplitSource],
    content: str,
    indexes: Mapping[str, ImageIndex],
) -> Manifest:
    files: dict[str, PackedFile] = {}
    for split, source in sources.items():
        shards = list(_records(directory, split))
        files |= {name: shard.file for name, shard in shards}
        files[index_name(split)] = _write(directory / index_name(split), index_content(dataset, source, shards))
    files[DATASET_FILE] = _write(directory / DATASET_FILE, dataset_content(dataset, indexes))
    options = next(iter(sources.values())).options
    images = {split: index.num_images for split, index in indexes.items()}
    manifest = Manifest(content=content, options=options, images=images, files=files)
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    _write(directory / MANIFEST, text + b"\n")
    shutil.rmtree(directory / UNFINISHED, ignore_errors=True)
    return manifest


def _records(directory: Path, split: str) -> Iterator[tuple[str, FinishedShard]]:
    for number in count():
        name = shard_name(split, number)
        record = read_struct(_record_path(directory, directory / name), FinishedShard)
        if record is None:
            return
        yield name, record


def _write(path: Path, content: bytes) -> PackedFile:
    write_atomic(path, content, mode=MODE)
    return PackedFile(len(content), file_crc32(path))


def _same_set(directory: Path, content: str, sources: Mapping[str, SplitSource], progress: _Progress) -> Manifest:
    """Return the manifest of the set in `directory`, after a check that it is complete and has the same content.

    Raises:
        DataError: it is not, or has not.
    """
    manifest = read_manifest(directory)
    hint = f"choose a new directory, or remove this set with: rm -r {directory}"
    if manifest.content != content:
        raise DataError(f"{directory}: is a packed set of other images, labels or options", hint=hint)
    for name, file in manifest.files.items():
        path = directory / name
        size = path.stat().st_size if path.is_file() else None
        if size != file.size:
            seen = "is missing" if size is None else f"has {size} of {file.size} bytes"
            raise DataError(f"{path}: {seen}: the packed set is not complete", hint=hint)
    for split, source in sources.items():
        names = _other_images(directory / index_name(split), source, progress)
        if names:
            raise DataError(
                f"{directory}: is a packed set of other content: {split}: {counted(len(names), 'image')} changed "
                f"since: {Examples.of(names)}",
                hint=hint,
            )
    return manifest


def _other_images(index: Path, source: SplitSource, progress: _Progress) -> list[str]:
    """Return the names of the images of `source` whose packed content is not that in the set with the `index`."""
    crc32s, names = open_index(index).arrays["crc32"].tolist(), []
    for member, crc32 in zip(source.members(0), crc32s, strict=True):
        if zlib.crc32(member.content) != crc32:
            names.append(member.name)
        progress.add()
    return names


@contextmanager
def _writing_into(directory: Path) -> Iterator[None]:
    """Report that `directory` cannot be written, or that its disk is full, as an error for users."""
    try:
        yield
    except OSError as error:
        cause = FULL.get(error.errno or 0)
        if cause is None:
            raise DataError(f"{directory}: cannot be written: {error.strerror}") from error
        raise DataError(
            f"{directory}: its file system {cause}",
            hint="the same command again goes on after the last complete shard; `rm -r` the directory to give up",
        ) from error


@contextmanager
def _only_packer(directory: Path, state: _State) -> Iterator[None]:
    """Hold the unfinished set in `directory`, which is new, empty, or was interrupted while it packed the same."""
    unfinished = directory / UNFINISHED
    if not unfinished.is_dir():
        found = sorted(path.name for path in directory.iterdir()) if directory.exists() else []
        if found:
            raise DataError(
                f"{directory}: is not empty ({found[0]}) and no packed set",
                hint="choose a new directory, or an empty one",
            )
        unfinished.mkdir(parents=True)
    try:
        with exclusive_lock(unfinished / "lock", timeout_s=0):
            kept = read_struct(unfinished / "state.json", _State)
            if kept is not None and kept != state:
                raise DataError(
                    f"{directory}: has the unfinished packed set of other images, labels or options",
                    hint=f"remove it with: rm -r {directory}, or choose a new directory",
                )
            write_struct(unfinished / "state.json", state)
            yield
    except TimeoutError as error:
        raise DataError(f"{directory}: another process packs into it", hint="wait for it") from error
