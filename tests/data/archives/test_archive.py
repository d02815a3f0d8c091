"""Tests of data/archives and data/files.py: members are read in place, and hostile archives are refused."""

import os
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from archives import assert_refused, raw_zip, tar_of, tar_with, zip_of, zip_with
from squashfs_images import raw_squashfs, squashfs_of

from hpc_yolo.core.errors import DataError
from hpc_yolo.data import files
from hpc_yolo.data.archives.archive import Archive, archive_on, member_of, open_archive
from hpc_yolo.data.archives.members import Member, MemberTable
from hpc_yolo.data.archives.zip import zip_content
from hpc_yolo.data.contents import content_state, read_content
from hpc_yolo.data.copies import reading_copies

LONG = "long/" * 30 + "ä" * 60 + ".jpg"
CONTENTS = {"a.jpg": b"one", "b/c.jpg": b"", "b/d e/f.jpg": os.urandom(3000), "b.jpg": b"x" * 512, LONG: b"far"}


@pytest.fixture(params=["tar", "tar of ./", "GNU tar", "zip", "deflated zip", "squashfs"])
def archive(request, tmp_path):
    """An archive of `CONTENTS` of each kind."""
    for name, content in CONTENTS.items():
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if request.param == "squashfs":
        return squashfs_of(tmp_path / "set", tmp_path / "x.sqsh")
    if request.param == "GNU tar":
        with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT) as written:
            written.add(tmp_path / "set", ".")
        return tmp_path / "x.tar"
    if "tar" in request.param:
        return tar_of(tmp_path / "set", tmp_path / "x.tar", request.param.partition("of ")[2])
    method = zipfile.ZIP_DEFLATED if "deflated" in request.param else zipfile.ZIP_STORED
    return zip_of(tmp_path / "set", tmp_path / "x.zip", method=method)


def test_members_are_read_and_listed_as_files_are(archive, tmp_path):
    loose = tmp_path / "set"
    for name, content in CONTENTS.items():
        assert read_content(f"{archive}/{name}") == files.read_bytes(archive / name) == content
        assert content_state(f"{archive}/{name}").length == len(content)
        assert files.exists(archive / name) and files.is_file(archive / name) and not files.is_dir(archive / name)
    for name in ("", "b", "b/d e", "long", "absent", "a", "a.jpg"):
        assert files.is_dir(archive / name) == (loose / name).is_dir()
        if (loose / name).is_dir():
            assert files.names_in(archive / name) == files.names_in(loose / name)
            found = {path.relative_to(archive) for path in files.members_below(archive / name)}
            assert found == {path.relative_to(loose) for path in (loose / name).rglob("*") if path.is_file()}
    assert files.members_below(loose) is None


@pytest.mark.parametrize("name", ["absent.jpg", "b", "", "../x.jpg", "a.jpg/b", "b/../../a.jpg"])
def test_absent_member_is_a_missing_file(archive, name):
    if name:
        assert not files.is_file(archive / name)
        with pytest.raises(FileNotFoundError) as raised:
            read_content(f"{archive}/{name}")
        assert raised.value.filename == f"{archive}/{name}"
    assert files.file_state(archive / "absent.jpg") == b""


def test_changed_archive_is_read_anew_and_changes_states(tmp_path):
    path = zip_with(tmp_path / "x.zip", "a.jpg", "b.jpg")
    first = files.file_state(path / "a.jpg")
    assert first != files.file_state(path / "b.jpg") and first == files.file_state(path / "a.jpg")
    zip_with(path, "a.jpg", "c.jpg", content=b"new")
    assert open_archive(path).read("c.jpg") == b"new"
    assert files.file_state(path / "a.jpg") != first


def test_directory_with_the_suffix_of_an_archive_is_a_directory(tmp_path):
    (tmp_path / "x.tar").mkdir()
    zip_with(tmp_path / "x.tar" / "y.ZIP", "a.jpg", content=b"in")
    assert read_content(f"{tmp_path}/x.tar/y.ZIP/a.jpg") == b"in"
    assert archive_on(tmp_path / "x.tar" / "y.ZIP" / "a.jpg") == tmp_path / "x.tar" / "y.ZIP"
    (tmp_path / "x.tar" / "loose.jpg").write_bytes(b"loose")
    assert read_content(f"{tmp_path}/x.tar/loose.jpg") == b"loose"
    assert member_of(f"{tmp_path}/x.tar/loose.jpg") is None


def test_links_to_members_are_those_members(tmp_path):
    symbolic = {"type": tarfile.SYMTYPE, "linkname": "../one/a.jpg"}
    hard = {"type": tarfile.LNKTYPE, "linkname": "./one/a.jpg"}
    path = tar_with(tmp_path / "x.tar", ("one/a.jpg", {}), ("two/b.jpg", symbolic), ("c.jpg", hard), content=b"data")
    assert [read_content(f"{path}/{name}") for name in ("two/b.jpg", "c.jpg")] == [b"data"] * 2


def test_names_of_windows_and_of_old_programs_are_paths(tmp_path):
    path = raw_zip(tmp_path / "x.zip", [{"name": "images\\a.jpg", "content": b"data"}])
    assert read_content(f"{path}/images/a.jpg") == b"data"
    content = path.read_bytes().replace(b"images\\a", b"images/\x81")
    (tmp_path / "y.zip").write_bytes(content)
    assert read_content(f"{tmp_path}/y.zip/images/ü.jpg") == b"data"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../a.jpg", "leads out of the archive: '../a.jpg'"),
        ("images/../../a.jpg", "leads out of the archive"),
        ("/etc/a.jpg", "is absolute: '/etc/a.jpg'"),
        ("C:/a.jpg", "is absolute"),
        ("a\x1b[31m.jpg", "has control characters"),
        ("a/" * 3000 + "a.jpg", "is too long"),
    ],
)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, kind, name, message):
    path = tmp_path / f"x.{kind}"
    if kind == "tar":
        tar_with(path, ("good.jpg", {}), (name, {}))
    else:
        raw_zip(path, [{"name": "good.jpg"}, {"name": name}])
    assert_refused(path, message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "bad.jpg is a link to '/etc/passwd', no file of the"),
        ({"type": tarfile.SYMTYPE, "linkname": "../../good.jpg"}, "is a link to '../../good.jpg', no file"),
        ({"type": tarfile.SYMTYPE, "linkname": "bad.jpg"}, "is a link to 'bad.jpg', no file"),
        ({"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}, "is absolute"),
        ({"type": tarfile.LNKTYPE, "linkname": "absent"}, "is a link to 'absent', no file"),
        ({"type": tarfile.CHRTYPE}, "bad.jpg is a device"),
        ({"type": tarfile.BLKTYPE}, "bad.jpg is a device"),
        ({"type": tarfile.FIFOTYPE}, "bad.jpg is a FIFO"),
        ({"type": tarfile.GNUTYPE_SPARSE}, "bad.jpg is a sparse file"),
        ({"type": b"Z"}, "bad.jpg is of the unknown kind b'Z'"),
        ({"name": "good.jpg"}, "two members have the name good.jpg"),
        ({"name": "./good.jpg"}, "two members have the name good.jpg"),
        ({"name": "good.jpg/a"}, "good.jpg is a file, and has members below it"),
        ({"pax_headers": {"GNU.sparse.major": "1"}}, "it has a sparse file"),
        ({"pax_headers": {"comment": "x" * 2_000_000}}, "a header of 2000"),
    ],
)
def test_hostile_tar_is_refused(tmp_path, fields, message):
    assert_refused(tar_with(tmp_path / "x.tar", ("good.jpg", {}), ("bad.jpg", fields)), message)


def patched(path, offset, value):
    content = bytearray(path.read_bytes())
    content[offset : offset + len(value)] = value
    checksum = sum(content[:148]) + 8 * 32 + sum(content[156:512])
    content[148:156] = b"%06o\0 " % checksum
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (b"77777777777\0", "it is cut off: good.jpg exceeds"),
        (b"\x80" + (1 << 62).to_bytes(11, "big"), "it is cut off: good.jpg exceeds"),
        (b"\xff" * 12, "a negative size"),
        (b"000000x0000\0", "an invalid size"),
    ],
)
def test_tar_with_a_false_size_is_refused(tmp_path, size, message):
    path = tar_with(tmp_path / "x.tar", ("good.jpg", {}))
    patched(path, 124, size)
    assert_refused(path, message)


@pytest.mark.parametrize(("length", "message"), [(700, "it is cut off"), (2000, "it is cut off"), (100, "is neither")])
def test_tar_that_is_cut_off_is_refused(tmp_path, length, message):
    path = tar_with(tmp_path / "x.tar", ("good.jpg", {}), ("b.jpg", {}))
    path.write_bytes(path.read_bytes()[:length])
    assert_refused(path, message)


def test_damaged_header_of_a_tar_is_refused(tmp_path):
    path = tar_with(tmp_path / "x.tar", ("good.jpg", {}), ("b.jpg", {}))
    content = bytearray(path.read_bytes())
    content[1536] ^= 1
    path.write_bytes(content)
    assert_refused(path, "no header at byte 1536")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "good.jpg", "content": b"x"}, "two members have the name good.jpg"),
        ({"name": "good.jpg/x"}, "good.jpg is a file, and has members below it"),
        ({"name": "b.jpg", "offset": 0}, "overlaps with another member"),
        ({"name": "b.jpg", "offset": 20}, "overlaps with another member"),
        ({"name": "b.jpg", "offset": 10**9}, "overlaps with another member, or with the directory"),
        ({"name": "b.jpg", "method": 8, "size": 3 << 30}, "no image or list of a dataset is larger"),
        ({"name": "b.jpg", "method": 8, "size": 1 << 30}, "more than 100 times as many"),
        ({"name": "b.jpg", "flags": 1}, "b.jpg is encrypted"),
        ({"name": "b.jpg", "method": 14}, "b.jpg is compressed with LZMA, not Deflate"),
        ({"name": "b.jpg", "method": 77}, "b.jpg is compressed with method 77"),
    ],
)
def test_hostile_zip_is_refused(tmp_path, entry, message):
    assert_refused(raw_zip(tmp_path / "x.zip", [{"name": "good.jpg"}, entry]), message)


@pytest.mark.parametrize(("mode", "kind"), [(stat.S_IFLNK, "a link"), (stat.S_IFIFO, "no regular file")])
def test_zip_with_links_or_devices_is_refused(tmp_path, mode, kind):
    assert_refused(zip_with(tmp_path / "x.zip", "good.jpg", mode=mode | 0o644), f"good.jpg is {kind}")


@pytest.mark.parametrize(
    ("number", "message"),
    [(1, "its directory has 2 entries, and 1 are written"), (3, "the directory at its end is missing")],
)
def test_zip_with_a_false_number_of_entries_is_refused(tmp_path, number, message):
    assert_refused(raw_zip(tmp_path / "x.zip", [{"name": "good.jpg"}, {"name": "b.jpg"}], number=number), message)


def test_zip_that_is_cut_off_is_refused(tmp_path):
    path = zip_with(tmp_path / "x.zip", "good.jpg", "b.jpg")
    path.write_bytes(path.read_bytes()[:-30])
    assert_refused(path, "the directory at its end is missing")


def test_large_zip_has_its_numbers_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1)
    path = zip_with(tmp_path / "x.zip", "a.jpg", "b.jpg")
    assert read_content(f"{path}/b.jpg") == b"x" * 600


def test_deflated_member_of_another_size_is_unreadable(tmp_path):
    bomb = zlib.compress(bytes(10_000_000))[2:-4]  # without the header and the checksum of zlib
    path = raw_zip(tmp_path / "x.zip", [{"name": "a.jpg", "content": bomb, "method": 8, "size": 5}])
    with pytest.raises(OSError, match="it does not have the 5 bytes") as raised:
        read_content(f"{path}/a.jpg")
    assert raised.value.filename == f"{path}/a.jpg"


@pytest.mark.parametrize(
    ("stored", "method", "message"),
    [
        (b"", 0, "header is damaged"),
        (b"PK\3\4" + bytes(26), 0, "cut off"),
        (b"PK\3\4" + bytes(25) + b"\0\xff", 8, "damaged"),
    ],
)
def test_damaged_member_of_a_zip_is_unreadable(stored, method, message):
    with pytest.raises(ValueError, match=message):
        zip_content(Member(b"a", 0, len(stored), 9, method), stored)


@pytest.mark.parametrize("is_table_kept", [False, True])
@pytest.mark.parametrize("level", [None, 0])
def test_flipped_byte_of_a_zip_member_is_unreadable(tmp_path, monkeypatch, level, is_table_kept):
    monkeypatch.setattr("hpc_yolo.data.archives.table_file.MIN_MEMBERS", 1 if is_table_kept else 100)
    path, method = tmp_path / "x.zip", zipfile.ZIP_STORED if level is None else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", method, compresslevel=level) as written:  # level 0 has the bytes as they are
        written.writestr("a.jpg", b"good" * 100)
        written.writestr("b.txt", b"0 0.5 0.5 0.25 0.25")
    stamp = path.stat().st_mtime_ns
    Archive(path)
    path.write_bytes(path.read_bytes().replace(b"0 0.5 0.5 0.25 0.25", b"1 0.5 0.5 0.25 0.25"))
    os.utime(path, ns=(stamp, stamp))
    assert zipfile.ZipFile(path).testzip() == "b.txt"
    assert read_content(f"{path}/a.jpg") == b"good" * 100
    with pytest.raises(OSError, match="it is damaged: not the CRC of the archive"):
        files.read_bytes(path / "b.txt")


@pytest.mark.parametrize(
    ("name", "start", "message", "hint"),
    [
        ("x.tar.gz", b"\x1f\x8b", "is compressed with gzip", "unpack it"),
        ("x.tar", b"\x1f\x8b", "is compressed with gzip", "unpack it"),
        ("x.sqsh", b"sqsh", "is a squashfs image of another byte order", "data pack"),
        ("x.7z", b"7z\xbc\xaf", "is a 7-Zip archive", "data pack"),
        ("x.zip", b"nothing", "is neither a tar, a zip nor a squashfs image", "plain .tar"),
        ("x.data", b"PK\3\4", "whose name ends in none of .tar, .zip, .sqsh", "rename"),
        ("x.img", b"hsqs", "whose name ends in none of .tar, .zip, .sqsh", "rename"),
    ],
)
def test_other_archives_are_refused_with_the_next_step(tmp_path, name, start, message, hint):
    (tmp_path / name).write_bytes(start + bytes(600))
    with pytest.raises(DataError, match=message) as raised:
        open_archive(tmp_path / name)
    assert hint in raised.value.hint


def test_table_lists_a_directory_beside_names_that_begin_alike():
    table = MemberTable.of(Member(name, 0, 0, 0) for name in (b"a/1", b"a/b/2", b"a.jpg", b"a0", b"ab/3", b"A/4"))
    assert list(table.below(b"a")) == [b"a/1", b"a/b/2"]
    assert [table.has_directory(name) for name in (b"a", b"a/b", b"ab", b"b", b"a/1", b"")] == [True] * 3 + [
        False
    ] * 2 + [True]
    assert not MemberTable.of([]).has_directory(b"")


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("hpc_yolo.data.archives.tar.MAX_MEMBERS", 1)
    monkeypatch.setattr("hpc_yolo.data.archives.zip.MAX_MEMBERS", 1)
    monkeypatch.setattr("hpc_yolo.data.archives.squashfs.MAX_MEMBERS", 1)
    assert_refused(tar_with(tmp_path / "x.tar", ("good.jpg", {}), ("b.jpg", {})), "more than 1 members")
    assert_refused(zip_with(tmp_path / "x.zip", "good.jpg", "b.jpg"), "more than 1 members")
    assert_refused(raw_squashfs(tmp_path / "x.sqsh", {b"good.jpg": b"", b"b.jpg": b""}), "more than 1 members")


def test_nothing_is_written_by_reading(archive, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    read_content(f"{archive}/a.jpg")
    assert {path: path.stat().st_mtime_ns for path in Path(tmp_path).rglob("*")} == before


@pytest.mark.parametrize("damage", ["", "absent", "cut off"])
def test_copy_on_the_node_is_read_where_it_can_be(tmp_path, damage):
    path = tar_with(tmp_path / "x.tar", ("a.jpg", {}), content=b"shared")
    assert read_content(f"{path}/a.jpg") == b"shared"
    copy = tmp_path / "node" / str(path).lstrip("/")
    copy.parent.mkdir(parents=True)
    tar_with(copy, ("a.jpg", {}), content=b"copied")
    if damage == "absent":
        copy.unlink()
    elif damage:
        copy.write_bytes(copy.read_bytes()[:20])
    with reading_copies(str(tmp_path / "node")):
        assert read_content(f"{path}/a.jpg") == (b"shared" if damage else b"copied")
    assert read_content(f"{path}/a.jpg") == b"shared"


def test_overwritten_copy_changes_neither_table_nor_labels_nor_members(archive, tmp_path):
    """Members of a tar, which have no CRC, are checked by decoding them: see `use_content`."""
    copy = tmp_path / "node" / str(archive).lstrip("/")
    copy.parent.mkdir(parents=True)
    copy.write_bytes(bytes(archive.stat().st_size))
    with reading_copies(str(tmp_path / "node")):
        for name, content in CONTENTS.items():
            assert files.read_bytes(archive / name) == content
            if archive.suffix != ".tar":
                assert read_content(f"{archive}/{name}") == content


@pytest.fixture
def kept(archive, monkeypatch):
    """The file that keeps the table of `archive`, which has been opened once."""
    monkeypatch.setattr("hpc_yolo.data.archives.table_file.MIN_MEMBERS", 1)
    Archive(archive)
    (path,) = archive.parent.glob(".*.members")
    return path


def test_kept_table_serves_until_the_archive_changes(archive, kept, monkeypatch):
    first = Archive(archive)
    monkeypatch.setattr("hpc_yolo.data.archives.archive.tar_members", lambda _: pytest.fail("read again"))
    monkeypatch.setattr("hpc_yolo.data.archives.archive.zip_members", lambda _: pytest.fail("read again"))
    monkeypatch.setattr("hpc_yolo.data.archives.squashfs.Squashfs.members", lambda _: pytest.fail("read again"))
    again = Archive(archive)
    assert list(again.table.below(b"")) == list(first.table.below(b""))
    assert {name: again.read(name) for name in CONTENTS} == CONTENTS
    os.utime(archive, ns=(1, 1))
    with pytest.raises(pytest.fail.Exception):
        Archive(archive)


@pytest.mark.parametrize("damage", [b"", b"\xff" * 8, b"\2" + bytes(7) + b"{}", b"cut"])
def test_damaged_table_is_replaced(archive, kept, damage):
    kept.write_bytes(kept.read_bytes()[:-1] if damage == b"cut" else damage)
    assert Archive(archive).read("a.jpg") == b"one"
    assert len(kept.read_bytes()) > 100


def test_table_that_cannot_be_kept_is_read_each_time(archive, monkeypatch):
    def fail(*_args: object, **_options: object) -> None:
        raise PermissionError

    monkeypatch.setattr("hpc_yolo.data.archives.table_file.MIN_MEMBERS", 1)
    monkeypatch.setattr("hpc_yolo.data.archives.table_file.write_atomic", fail)
    assert Archive(archive).read("a.jpg") == b"one"
    assert not list(archive.parent.glob(".*.members"))
