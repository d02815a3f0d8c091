"""Decompression of the blocks of a squashfs image, with a limit of the bytes that one may become."""

from __future__ import annotations

import importlib
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, TypeAlias

Decompress: TypeAlias = Callable[[bytes, int], bytes]  # (stored bytes, limit) -> content
INSTALL, AGAIN = "pip install 'hpc-yolo[squashfs]'", "make it with: mksquashfs DIRECTORY IMAGE -noD -noF"


def decompressor(compression: int) -> Decompress:
    """Return the function that decompresses a block; it raises ValueError for one that is damaged or too large.

    Args:
        compression: as a squashfs image numbers it, from 1 to 6.

    Raises:
        ValueError: it is not known, or needs a package that is not installed.
    """
    known = {1: _zlib, 2: _lzma, 4: _lzma, 5: _lz4, 6: _zstandard}
    if compression not in known:
        name = "LZO" if compression == 3 else f"an unknown method (number {compression})"
        raise ValueError(f"it is compressed with {name}; {AGAIN}")
    return _limited(known[compression]())


def _limited(decompress: Decompress) -> Decompress:
    def limited(stored: bytes, limit: int) -> bytes:
        try:
            content = decompress(stored, limit)
        except Exception as error:  # each library has errors of its own, and all mean the same here
            raise ValueError(f"a block of it is damaged: {error}") from None
        if len(content) > limit:
            raise ValueError("a block of it becomes larger than it may")
        return content

    return limited


def _zlib() -> Decompress:
    return lambda stored, limit: zlib.decompressobj().decompress(stored, limit + 1)


def _lzma() -> Decompress:
    return lambda stored, limit: lzma.LZMADecompressor().decompress(stored, limit + 1)


def _lz4() -> Decompress:
    block = _package("lz4.block", "LZ4")
    return lambda stored, limit: bytes(block.decompress(stored, uncompressed_size=limit))


def _zstandard() -> Decompress:
    decoder = _package("zstandard", "Zstandard").ZstdDecompressor()
    return lambda stored, limit: bytes(decoder.stream_reader(io.BytesIO(stored)).read(limit + 1))


def _package(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(f"it is compressed with {what}: {INSTALL}, or {AGAIN}") from None
