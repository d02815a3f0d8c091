"""The files of a packed set: their names, and the manifest that lists them. Needs no NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from hpc_yolo.core.errors import DataError

MANIFEST = "packed.json"
UNFINISHED = ".packing"  # what an interrupted `data pack` needs to go on
INDEX_SUFFIX = ".index"
SHARD_SUFFIX = ".tar"
KIND = "hpc-yolo packed set"
VERSION = 1
PACK_AGAIN = "pack the dataset again, into a new directory: hpc-yolo data pack DATA DIR"


class PackedFile(msgspec.Struct, frozen=True):
    """Size and CRC-32 of one file of a packed set."""

    size: int
    crc32: int


class Options(msgspec.Struct, frozen=True):
    """How a set is packed.

    Attributes:
        size: longer side in pixels above which images are scaled; None to copy every image byte for byte.
        quality: of scaled images as JPEG, 1 to 100.
        shard_bytes: size above which a shard gets no further image.
    """

    size: int | None = None
    quality: int = 95
    shard_bytes: int = 4 << 30


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of packed.json.

    Attributes:
        content: digest of names, sizes and labels of what was packed, and of the options.
        images: number of images of each split.
        files: every other file of the set.
    """

    kind: str = KIND
    version: int = VERSION
    content: str
    options: Options
    images: dict[str, int]
    files: dict[str, PackedFile]


def index_name(split: str) -> str:
    """Return the name of the index of a split."""
    return f"{split}{INDEX_SUFFIX}"


def shard_name(split: str, number: int) -> str:
    """Return the name of a shard of a split."""
    return f"{split}-{number:05d}{SHARD_SUFFIX}"


def index_of_shard(shard: Path) -> tuple[Path, int] | None:
    """Return (the index beside the file `shard`, the shard's number in it); None if its name is not that of a shard."""
    split, _, number = shard.stem.rpartition("-")
    if not split or not number.isdecimal() or shard.name != shard_name(split, int(number)):
        return None
    return shard.with_name(index_name(split)), int(number)


def is_index(path: Path) -> bool:
    """Return True if a split that is `path` is the index of a packed set."""
    return path.suffix == INDEX_SUFFIX


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of the packed set in `directory`.

    Raises:
        DataError: there is no complete set, or its manifest is damaged or of another version.
    """
    path = directory / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise _not_packed(directory, error) from error
    except msgspec.MsgspecError as error:
        raise DataError(f"{path}: is damaged: {error}", hint=PACK_AGAIN) from error
    if manifest.kind != KIND or manifest.version != VERSION:
        raise DataError(f"{path}: is of {manifest.kind!r}, version {manifest.version}; {KIND!r}, {VERSION} is needed")
    if any(Path(name).name != name for name in manifest.files):
        raise DataError(f"{path}: is damaged: it lists a file in another directory", hint=PACK_AGAIN)
    return manifest


def packed_files(directory: Path) -> dict[str, PackedFile] | None:
    """Return the files of the packed set in `directory` but its manifest; None where there is no such set.

    A copy is complete once these files and the manifest are there; `verify.verify_files` compares their content.

    Raises:
        DataError: its manifest is damaged or of another version.
    """
    return read_manifest(directory).files if (directory / MANIFEST).is_file() else None


def shards_of(index: Path) -> Iterator[tuple[Path, PackedFile]]:
    """Yield (path, size and CRC-32) of each shard of the split of a packed set that has the `index`.

    Raises:
        DataError: there is no complete set, or its manifest is damaged or of another version.
    """
    for name, file in read_manifest(index.parent).files.items():
        path = index.with_name(name)
        found = index_of_shard(path)
        if found is not None and found[0] == index:
            yield path, file


def _not_packed(directory: Path, error: OSError) -> DataError:
    if (directory / UNFINISHED).is_dir():
        return DataError(
            f"{directory}: packing was interrupted", hint="the same `hpc-yolo data pack` command again completes it"
        )
    if not directory.is_dir():
        return DataError(f"{directory}: is not a directory; a packed set is one")
    if not (directory / MANIFEST).exists():
        return DataError(f"{directory}: is not a packed set: it has no {MANIFEST}")
    return DataError(f"{directory / MANIFEST}: cannot be read: {error.strerror}")
