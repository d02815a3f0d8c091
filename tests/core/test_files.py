"""Atomic writes, journals with torn lines, and locks between processes."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from waiting import PATIENCE_S

from hpc_yolo.core.files import (
    append_json_line,
    atomic_writer,
    exclusive_lock,
    parse_json_lines,
    read_json_lines,
    read_struct,
    sync_directory,
    write_atomic,
    write_struct,
)
from hpc_yolo.core.package_data import resource_directory


def run_python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE_S
    )


def write_half(path, kind):
    with atomic_writer(path) as file:
        file.write(b"half of the new")
        raise kind


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("before", [None, b"old"])
def test_failed_write_keeps_old_file_and_no_other(tmp_path, kind, before):
    path = tmp_path / "state"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(kind):
        write_half(path, kind)
    assert sorted(tmp_path.iterdir()) == ([path] if before else [])
    assert before is None or path.read_bytes() == before


def test_old_file_is_readable_until_block_ends(tmp_path):
    path = tmp_path / "state"
    path.write_bytes(b"old")
    with atomic_writer(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_process_killed_while_writing_keeps_old_file(tmp_path):
    path = tmp_path / "state"
    path.write_bytes(b"old")
    code = (
        "import os, pathlib, signal, sys\n"
        "from hpc_yolo.core.files import atomic_writer\n"
        "with atomic_writer(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write(b'half of the new'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert run_python(code, path).returncode == -9
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(("given", "expected"), [({}, 0o600), ({"mode": 0o644}, 0o644), ({"mode": 0o755}, 0o755)])
@pytest.mark.parametrize("umask", [0o022, 0o077, 0])
def test_new_file_is_private_unless_mode_is_given(tmp_path, given, expected, umask):
    path = tmp_path / "state"
    path.touch(mode=0o666)
    before = os.umask(umask)
    try:
        write_atomic(path, "text", **given)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == expected


@pytest.mark.parametrize(("content", "expected"), [("é\n", "é\n".encode()), (b"\xff\0", b"\xff\0"), ("", b"")])
def test_text_is_written_as_utf8_and_bytes_unchanged(tmp_path, content, expected):
    write_atomic(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == expected


def test_link_is_replaced_and_its_target_stays(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_atomic(tmp_path / "link", "new")
    assert (tmp_path / "target").read_text() == "old" and not (tmp_path / "link").is_symlink()


def test_missing_directory_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "none" / "file", "text")
    with pytest.raises(FileNotFoundError):
        sync_directory(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        sync_directory(tmp_path / "file")


def test_lines_are_read_oldest_first(tmp_path):
    records = [{"n": 1}, {"text": "é\u2028\n"}, {"deep": {"a": [1, None, True, 0.1]}}]
    for record in records:
        append_json_line(tmp_path / "journal", record)
    assert list(read_json_lines(tmp_path / "journal")) == records
    assert (tmp_path / "journal").read_bytes().count(b"\n") == len(records)
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o600


def test_torn_last_line_keeps_later_lines_readable(tmp_path):
    journal = tmp_path / "journal"
    append_json_line(journal, {"n": 1})
    journal.write_bytes(journal.read_bytes() + b'{"n": 2, "te')
    append_json_line(journal, {"n": 3})
    append_json_line(journal, {"n": 4})
    assert [record["n"] for record in read_json_lines(journal)] == [1, 3, 4]
    assert journal.read_bytes().splitlines()[1] == b'{"n": 2, "te', "the torn line is kept"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_record_that_is_no_json_is_refused_before_writing(tmp_path, value):
    with pytest.raises((ValueError, TypeError)):
        append_json_line(tmp_path / "journal", {"value": value})
    assert not (tmp_path / "journal").exists()


def test_partly_written_line_is_reported_and_next_line_is_readable(tmp_path):
    journal = tmp_path / "journal"
    code = (
        "import pathlib, resource, signal, sys\n"
        "from hpc_yolo.core.files import append_json_line\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))\n"
        "append_json_line(pathlib.Path(sys.argv[1]), {'n': 1})\n"
        "append_json_line(pathlib.Path(sys.argv[1]), {'text': 'x' * 100})\n"
    )
    ended = run_python(code, journal)
    assert ended.returncode == 1 and "only part of a line was written" in ended.stderr
    assert journal.stat().st_size == 20
    append_json_line(journal, {"n": 3})
    assert [record["n"] for record in read_json_lines(journal)] == [1, 3]


@pytest.mark.parametrize(
    "line",
    [
        *(
            b"",
            b"\0\0\0",
            b"\xff\xfe",
            b"[1, 2]",
            b"3",
            b'"text"',
            b"null",
            b"NaN",
            b'{"n": 2',
            b'{"n": 2}}',
            b"{n: 2}",
        ),
        b"[" * 100_000,
        b'{"n": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda line: ascii(line[:12]),
)
def test_invalid_lines_are_skipped(tmp_path, line):
    content = b'{"n":1}\n' + line + b'\n\r\n{"n":3}\r\n'
    assert list(parse_json_lines(content)) == [{"n": 1}, {"n": 3}]
    (tmp_path / "journal").write_bytes(content)
    assert list(read_json_lines(tmp_path / "journal")) == [{"n": 1}, {"n": 3}]


def test_missing_journal_has_no_lines_and_directory_is_reported(tmp_path):
    assert list(read_json_lines(tmp_path / "none")) == []
    with pytest.raises(IsADirectoryError):
        list(read_json_lines(tmp_path))


TRY_LOCK = (
    "import fcntl, os, sys\n"
    "descriptor = os.open(sys.argv[1], os.O_RDWR)\n"
    "try:\n"
    "    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    "except OSError:\n"
    "    sys.exit(7)\n"
)


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_lock_excludes_other_process_until_block_ends(tmp_path, error):
    lock = tmp_path / "lock"
    expected = pytest.raises(error) if error else contextlib.nullcontext()
    with expected, exclusive_lock(lock):
        assert run_python(TRY_LOCK, lock).returncode == 7
        if error:
            raise error
    assert run_python(TRY_LOCK, lock).returncode == 0


def test_killed_process_releases_lock(tmp_path):
    lock = tmp_path / "lock"
    code = (
        "import os, pathlib, signal, sys\n"
        "from hpc_yolo.core.files import exclusive_lock\n"
        "with exclusive_lock(pathlib.Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert run_python(code, lock).returncode == -9
    with exclusive_lock(lock):
        pass


def test_locked_updates_of_processes_are_not_lost(tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    code = (
        "import pathlib, sys\n"
        "from hpc_yolo.core.files import exclusive_lock\n"
        "counter = pathlib.Path(sys.argv[1])\n"
        "for _ in range(200):\n"
        "    with exclusive_lock(counter.with_name('lock')):\n"
        "        counter.write_text(str(int(counter.read_text()) + 1))\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(counter)]) for _ in range(3)]
    assert [process.wait(timeout=PATIENCE_S) for process in processes] == [0, 0, 0]
    assert counter.read_text() == "600"


def test_file_descriptors_are_closed(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    with exclusive_lock(tmp_path / "lock"):
        append_json_line(tmp_path / "journal", {"n": 1})
        write_atomic(tmp_path / "file", "text")
    with pytest.raises(IsADirectoryError), exclusive_lock(tmp_path):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(("directory", "file"), [("configs", "quickstart.yaml"), ("slurm", "array.sbatch")])
def test_files_of_package_are_found_from_any_directory(tmp_path, monkeypatch, directory, file):
    monkeypatch.chdir(tmp_path)
    assert (Path(resource_directory(directory)) / file).is_file()


class Record(msgspec.Struct, frozen=True):
    number: int


@pytest.mark.parametrize("content", [None, b"", b"\xff\x00", b"[]", b'{"number":"one"}', b'{"number":1'])
def test_struct_round_trips_and_invalid_file_is_none(tmp_path, content):
    path = tmp_path / "record.json"
    write_struct(path, Record(1))
    assert read_struct(path, Record) == Record(1)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert read_struct(path, Record) is None
