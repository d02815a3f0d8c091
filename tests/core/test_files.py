"""Files are whole or as they were, journals survive torn lines, and the lock holds between processes."""

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
def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path, kind, before):
    path = tmp_path / "state"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(kind):
        write_half(path, kind)
    assert sorted(tmp_path.iterdir()) == ([path] if before else [])
    assert before is None or path.read_bytes() == before


def test_readers_see_the_old_file_until_the_block_ends(tmp_path):
    path = tmp_path / "state"
    path.write_bytes(b"old")
    with atomic_writer(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_in_the_middle_leaves_the_old_file(tmp_path):
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
def test_a_new_file_has_the_mode_asked_for_and_is_private_unless_asked(tmp_path, given, expected, umask):
    path = tmp_path / "state"
    path.touch(mode=0o666)
    before = os.umask(umask)
    try:
        write_atomic(path, "text", **given)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == expected


@pytest.mark.parametrize(("content", "expected"), [("é\n", "é\n".encode()), (b"\xff\0", b"\xff\0"), ("", b"")])
def test_text_is_written_as_utf8_and_bytes_as_they_are(tmp_path, content, expected):
    write_atomic(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == expected


def test_a_link_is_replaced_and_what_it_pointed_to_stays(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_atomic(tmp_path / "link", "new")
    assert (tmp_path / "target").read_text() == "old" and not (tmp_path / "link").is_symlink()


def test_a_directory_that_does_not_exist_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "none" / "file", "text")
    with pytest.raises(FileNotFoundError):
        sync_directory(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        sync_directory(tmp_path / "file")


def test_lines_come_back_oldest_first(tmp_path):
    records = [{"n": 1}, {"text": "é\u2028\n"}, {"deep": {"a": [1, None, True, 0.1]}}]
    for record in records:
        append_json_line(tmp_path / "journal", record)
    assert list(read_json_lines(tmp_path / "journal")) == records
    assert (tmp_path / "journal").read_bytes().count(b"\n") == len(records)
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o600


def test_a_torn_end_spoils_no_later_line(tmp_path):
    journal = tmp_path / "journal"
    append_json_line(journal, {"n": 1})
    journal.write_bytes(journal.read_bytes() + b'{"n": 2, "te')
    append_json_line(journal, {"n": 3})
    append_json_line(journal, {"n": 4})
    assert [record["n"] for record in read_json_lines(journal)] == [1, 3, 4]
    assert journal.read_bytes().splitlines()[1] == b'{"n": 2, "te', "what was torn is kept to look at"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_a_record_that_is_no_json_is_refused_before_the_file_is_touched(tmp_path, value):
    with pytest.raises((ValueError, TypeError)):
        append_json_line(tmp_path / "journal", {"value": value})
    assert not (tmp_path / "journal").exists()


def test_a_line_that_did_not_fit_is_reported_and_the_next_one_is_whole(tmp_path):
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
    "rubbish",
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
    ids=lambda rubbish: ascii(rubbish[:12]),
)
def test_foreign_lines_are_passed_over(tmp_path, rubbish):
    content = b'{"n":1}\n' + rubbish + b'\n\r\n{"n":3}\r\n'
    assert list(parse_json_lines(content)) == [{"n": 1}, {"n": 3}]
    (tmp_path / "journal").write_bytes(content)
    assert list(read_json_lines(tmp_path / "journal")) == [{"n": 1}, {"n": 3}]


def test_no_journal_holds_no_lines_but_a_directory_is_reported(tmp_path):
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


@pytest.mark.parametrize("ending", [None, RuntimeError])
def test_the_lock_excludes_another_process_until_its_block_ends(tmp_path, ending):
    lock = tmp_path / "lock"
    expected = pytest.raises(ending) if ending else contextlib.nullcontext()
    with expected, exclusive_lock(lock):
        assert run_python(TRY_LOCK, lock).returncode == 7
        if ending:
            raise ending
    assert run_python(TRY_LOCK, lock).returncode == 0


def test_a_process_that_dies_gives_the_lock_back(tmp_path):
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


def test_processes_that_take_turns_lose_no_update(tmp_path):
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


def test_no_descriptor_is_left_open(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    with exclusive_lock(tmp_path / "lock"):
        append_json_line(tmp_path / "journal", {"n": 1})
        write_atomic(tmp_path / "file", "text")
    with pytest.raises(IsADirectoryError), exclusive_lock(tmp_path):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(("directory", "file"), [("configs", "quickstart.yaml"), ("slurm", "array.sbatch")])
def test_the_files_of_the_package_are_found_from_anywhere(tmp_path, monkeypatch, directory, file):
    monkeypatch.chdir(tmp_path)
    assert (Path(resource_directory(directory)) / file).is_file()


class Kept(msgspec.Struct, frozen=True):
    number: int


@pytest.mark.parametrize("content", [None, b"", b"\xff\x00", b"[]", b'{"number":"one"}', b'{"number":1'])
def test_a_value_is_read_as_it_was_kept_and_what_is_none_is_nothing(tmp_path, content):
    path = tmp_path / "kept.json"
    write_struct(path, Kept(1))
    assert read_struct(path, Kept) == Kept(1)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert read_struct(path, Kept) is None
