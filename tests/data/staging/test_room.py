"""Free space, and the types of file systems."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from hpc_yolo.core.errors import DataError
from hpc_yolo.data.staging import room
from hpc_yolo.data.staging.room import file_system, is_in_memory, is_local, require_room

MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:5 / /dev/shm rw - tmpfs tmpfs rw
24 22 0:9 / /data rw shared:7 master:1 - lustre 10.0.0.1@o2ib:/fs rw
25 24 0:8 / /data/my\\040disk rw - xfs /dev/sdb rw
26 22 0:7 / /home rw - nfs4 server:/home rw
27 22 0:6 / /home rw - autofs systemd-1 rw
28 22 0:4 / /soft rw - fuse.sshfs me@host: rw
torn line
"""


@pytest.fixture
def mounts(tmp_path, monkeypatch):
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTS)
    monkeypatch.setattr(room, "MOUNTS", path)
    return path


@pytest.mark.parametrize(
    ("path", "kind", "is_of_machine"),
    [
        ("/", "ext4", True),
        ("/tmp/x", "ext4", True),
        ("/dev/shm", "tmpfs", True),
        ("/dev/shm2", "ext4", True),
        ("/data", "lustre", False),
        ("/data/coco/images", "lustre", False),
        ("/data/my disk/coco", "xfs", True),
        ("/home/me", "autofs", False),  # the later mount is on top
        ("/soft/x", "fuse.sshfs", False),
    ],
)
def test_file_system_of_path(path, kind, is_of_machine, mounts):
    assert file_system(Path(path)) == kind
    assert is_local(Path(path)) is is_of_machine
    assert is_in_memory(Path(path)) is (kind == "tmpfs")


def test_unknown_file_system_is_not_local(mounts):
    mounts.unlink()
    assert file_system(Path("/")) == ""
    assert not is_local(Path("/"))


@pytest.mark.parametrize(
    ("needed_bytes", "num_files", "kind", "message"),
    [
        (8000, 10, "ext4", None),
        (8400, 10, "ext4", r"has 10 KiB free, and 10 KiB are needed \(8 KiB and a fifth\)"),
        (1000, 90, "ext4", "has room for 100 more files, and 90 and a fifth are needed"),
        (2000, 10, "tmpfs", None),
        (2400, 10, "tmpfs", "is in memory; half of what this job has left is 2 KiB, and 3 KiB are needed"),
    ],
)
def test_room(needed_bytes, num_files, kind, message, tmp_path, monkeypatch):
    """Of 10,000 bytes and 100 files that are free, and 5,000 bytes of memory."""
    found = SimpleNamespace(f_bavail=100, f_frsize=100, f_files=1000, f_favail=100)
    monkeypatch.setattr(os, "statvfs", lambda _path: found)
    monkeypatch.setattr(room, "available_bytes", lambda: 5000)
    monkeypatch.setattr(room, "file_system", lambda _path: kind)
    if message is None:
        require_room(tmp_path, needed_bytes, num_files)
        return
    with pytest.raises(DataError, match=message):
        require_room(tmp_path, needed_bytes, num_files)


def test_file_system_without_a_number_of_files_has_room(tmp_path, monkeypatch):
    found = SimpleNamespace(f_bavail=100, f_frsize=100, f_files=0, f_favail=0)
    monkeypatch.setattr(os, "statvfs", lambda _path: found)
    monkeypatch.setattr(room, "file_system", lambda _path: "btrfs")
    require_room(tmp_path, 10, 10)
