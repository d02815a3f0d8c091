"""Squashfs images for tests: of a directory, and with inodes that no honest program writes. Nothing is compressed.

Images in tests/data/archives/squashfs are of mksquashfs 4.5.1. To make them again: write_recorded_files("tree"), then
mksquashfs tree gzip.sqsh -comp gzip -b 4096 -nopad -all-root -mkfs-time 0 -all-time 0 -no-xattrs; stored.sqsh has
-noI -noD -noF -no-fragments instead of -comp.
"""

from __future__ import annotations

import os
import random
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

BLOCK_BYTES, METADATA_BYTES = 131072, 8192
DIRECTORY, FILE, LINK = 1, 2, 3
NO_FRAGMENT = 0xFFFFFFFF
STORED_BLOCK, STORED_METADATA = 1 << 24, 0x8000


@dataclass
class Inode:
    """An inode of a type and with fields after the common ones that may be false."""

    kind: int
    fields: bytes


Tree: TypeAlias = "dict[bytes, bytes | Inode | Tree]"


def write_recorded_files(root: Path) -> dict[str, bytes]:
    """Write the files that the recorded images have; return their contents by name, with those of links."""
    contents = {
        "a.jpg": b"one",
        "b/empty.jpg": b"",
        "b/d e/blocks.jpg": random.Random(0).randbytes(10_000),
        "b/block.jpg": b"x" * 4096,
        "b/zeros.jpg": bytes(9000),
        "b/ends in zeros.jpg": b"y" * 5000 + bytes(8000),
        "long/" * 30 + "ä" * 60 + ".jpg": b"far",
    }
    contents |= {f"many/{number:020d}.txt": str(number).encode() for number in range(300)}
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "b" / "link.jpg").symlink_to("../a.jpg")
    os.link(root / "b" / "block.jpg", root / "hard.jpg")
    return contents | {"b/link.jpg": contents["a.jpg"], "hard.jpg": contents["b/block.jpg"]}


def squashfs_of(directory: Path, archive: Path) -> Path:
    """Write an image of all files below `directory`."""
    return raw_squashfs(archive, _tree_of(directory))


def raw_squashfs(archive: Path, tree: Tree, *, compression: int = 1, version: int = 4) -> Path:
    """Write an image of `tree`, which may have inodes of any kind."""
    writer = _Writer()
    root = writer.directory(tree)
    inodes, directories = _metadata(writer.inodes), _metadata(writer.directories)
    first = 96 + len(writer.data)
    fragments = first + len(inodes) + len(directories)
    offsets = (fragments, fragments, 0xFFFFFFFFFFFFFFFF, first, first + len(inodes), fragments, 0xFFFFFFFFFFFFFFFF)
    sizes = (writer.number, 0, BLOCK_BYTES, 0, compression, 17, 0, 1, version, 0)
    fixed = struct.pack("<4s4I6H8Q", b"hsqs", *sizes, root, *offsets)
    archive.write_bytes(fixed + writer.data + inodes + directories)
    return archive


def file_inode(start: int, size: int, *lengths: int, fragment: int = NO_FRAGMENT, offset: int = 0) -> Inode:
    """Return the inode of a file whose blocks have stored `lengths` from `start` on."""
    return Inode(FILE, struct.pack(f"<4I{len(lengths)}I", start, fragment, offset, size, *lengths))


@dataclass
class _Writer:
    data: bytes = b""
    inodes: bytes = b""
    directories: bytes = b""
    number: int = 0

    def inode(self, inode: Inode) -> int:
        """Append an inode; return its reference."""
        self.number += 1
        reference = _reference(len(self.inodes))
        self.inodes += struct.pack("<4H2I", inode.kind, 0o644, 0, 0, 0, self.number) + inode.fields
        return reference

    def file(self, content: bytes) -> Inode:
        """Append the blocks of a file; return its inode."""
        start = 96 + len(self.data)
        parts = [content[at : at + BLOCK_BYTES] for at in range(0, len(content), BLOCK_BYTES)]
        self.data += content
        return file_inode(start, len(content), *(len(part) | STORED_BLOCK for part in parts))

    def directory(self, tree: Tree) -> int:
        """Append a directory with all that is in it; return its reference."""
        entries = []
        for name, value in sorted(tree.items()):
            if isinstance(value, dict):
                entries.append((name, DIRECTORY, self.directory(value)))
            else:
                inode = self.file(value) if isinstance(value, bytes) else value
                entries.append((name, inode.kind, self.inode(inode)))
        listing = b"".join(
            struct.pack("<3I", 0, reference >> 16, 1)
            + struct.pack("<HhHH", reference & 0xFFFF, 0, kind, len(name) - 1)
            + name
            for name, kind, reference in entries
        )
        block = _reference(len(self.directories))
        self.directories += listing
        fields = struct.pack("<4I2HI", 2, len(listing) + 3, block >> 16, 0, 0, block & 0xFFFF, NO_FRAGMENT)
        return self.inode(Inode(DIRECTORY + 7, fields))


def _tree_of(directory: Path) -> Tree:
    return {
        os.fsencode(path.name): _tree_of(path) if path.is_dir() else path.read_bytes() for path in directory.iterdir()
    }


def _reference(position: int) -> int:
    block, offset = divmod(position, METADATA_BYTES)
    return block * (METADATA_BYTES + 2) << 16 | offset


def _metadata(content: bytes) -> bytes:
    parts = [content[at : at + METADATA_BYTES] for at in range(0, len(content), METADATA_BYTES)]
    return b"".join((len(part) | STORED_METADATA).to_bytes(2, "little") + part for part in parts)
