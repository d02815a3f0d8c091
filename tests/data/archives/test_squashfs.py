"""Tests of data/archives/squashfs.py on images of mksquashfs, and on ones that no honest program writes."""

import random
import struct
import sys
from pathlib import Path

import pytest
from archives import assert_refused
from squashfs_images import Inode, file_inode, raw_squashfs, write_recorded_files

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.archives.archive import Archive

RECORDED = sorted((Path(__file__).parent / "squashfs").iterdir())
PACKAGES = {"lz4": "lz4.block", "zstd": "zstandard"}
LINK = struct.pack("<2I", 1, 9) + b"../../etc"
LISTED_AGAIN = struct.pack("<2I2HI", 0, 2, 28, 0, 0)  # the first listing of the image, with the directory `below`
GOOD = {b"good.jpg": b"x" * 600}


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_images_of_mksquashfs_have_the_content_of_their_files(path, tmp_path):
    if path.stem in PACKAGES:
        pytest.importorskip(PACKAGES[path.stem])
    contents, image = write_recorded_files(tmp_path), Archive(path)
    assert {name.decode() for name in image.table.below(b"")} == set(contents)
    assert {name: image.read(name) for name in contents} == contents


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (b"..", b"", "leads out of the archive: '..'"),
        (b"../x.jpg", b"", "leads out of the archive"),
        (b"/etc/x.jpg", b"", "is absolute"),
        (b"good.jpg\n", b"", "control characters"),
        (b"good.jpg/x", b"", "good.jpg is a file, and has members below it"),
        (b"link", Inode(3, LINK), "link is a link to '../../etc', no file of the archive"),
        (b"link", Inode(3, struct.pack("<2I", 1, 1 << 31)), "cut off or damaged"),
        (b"disk", Inode(4, bytes(8)), "disk is a device"),
        (b"tty", Inode(5, bytes(8)), "tty is a device"),
        (b"pipe", Inode(6, bytes(4)), "pipe is a FIFO"),
        (b"socket", Inode(7, bytes(4)), "socket is a socket"),
        (b"what", Inode(15, bytes(4)), "what is of the unknown type 15"),
        (b"large", file_inode(0, 3 << 30), "no image or list of a dataset is larger"),
        (b"bomb", file_inode(0, 1 << 30, *[0] * 8192), "more than 100 times as many"),
        (b"list", file_inode(0, 1 << 30), "cut off or damaged"),
        (b"loop", {b"below": Inode(1, LISTED_AGAIN)}, "the directory loop/below/below is in the image twice"),
    ],
)
def test_hostile_image_is_refused(tmp_path, name, value, message):
    assert_refused(raw_squashfs(tmp_path / "x.sqsh", {**GOOD, name: value}), message)


@pytest.mark.parametrize(
    ("inode", "message"),
    [
        (file_inode(1 << 31, 10, 10 | 1 << 24), "cut off"),
        (file_inode(96, 10, 9 | 1 << 24), "cut off"),
        (file_inode(96, 10, 1 << 23), "cut off"),
        (file_inode(96, 10, 10), "a block of it is damaged"),
        (file_inode(96, 10, fragment=5), "cut off"),
    ],
)
def test_false_blocks_make_a_member_unreadable(tmp_path, inode, message):
    image = Archive(raw_squashfs(tmp_path / "x.sqsh", {**GOOD, b"bad.jpg": inode}))
    assert image.read("good.jpg") == GOOD[b"good.jpg"]
    with pytest.raises(OSError, match=message):
        image.read("bad.jpg")


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"version": 3}, "version 3.0"), ({"compression": 3}, "LZO"), ({"compression": 9}, "unknown method (number 9)")],
)
def test_other_kinds_of_images_are_refused(tmp_path, fields, message):
    assert_refused(raw_squashfs(tmp_path / "x.sqsh", GOOD, **fields), message)


@pytest.mark.parametrize(("compression", "package"), [(5, "lz4.block"), (6, "zstandard")])
def test_absent_package_is_named(tmp_path, monkeypatch, compression, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert_refused(raw_squashfs(tmp_path / "x.sqsh", GOOD, compression=compression), "pip install 'hpc-yolo[squashfs]'")


@pytest.mark.parametrize("seed", range(4))
def test_damaged_image_is_refused_or_unreadable(tmp_path, seed):
    """Nothing but DataError and OSError is raised, and no damage makes a read large or endless."""
    draw, path = random.Random(seed), tmp_path / "x.sqsh"
    whole = RECORDED[seed % 2].read_bytes()
    for _ in range(60):
        damaged = bytearray(whole[: draw.choice([len(whole), draw.randrange(len(whole))])])
        for _ in range(draw.randrange(1, 6)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(b"hsqs" + damaged[4:])
        try:
            image = Archive(path)
            for name in image.table.below(b""):
                image.read(name.decode(errors="surrogateescape"))
        except (DataError, OSError):
            continue
