"""`hpc-yolo data staged`: what it lists and removes."""

import json
import os

import pytest
from click.testing import CliRunner

from hpc_yolo.cli.data_staged import staged
from hpc_yolo.core.units import short_bytes
from hpc_yolo.data.staging.directory import StagedCopy, private_directory
from hpc_yolo.data.staging.plan import StagedFile, StagePlan


@pytest.fixture
def copies(tmp_path) -> dict[str, StagedCopy]:
    """Three copies: used by this process, unused for a minute, and unfinished."""
    parent = private_directory(tmp_path)
    found = {name: StagedCopy(parent, name) for name in ("used", "unused", "unfinished")}
    for name, copy in found.items():
        copy.lock().close()
        copy.start()
        if name != "unfinished":
            copy.complete(StagePlan((StagedFile("/a", 2048),), name), "/data/coco")
    found["unfinished"].write_progress(1000)
    time = found["unused"].lock_path.stat().st_mtime - 60
    os.utime(found["unused"].lock_path, (time, time))
    return found


def run(*arguments: object) -> list[str]:
    done = CliRunner().invoke(staged, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def test_copies_are_listed_the_longest_unused_first(copies, tmp_path):
    lock = copies["used"].lock()
    assert lock.try_shared()
    lines = [line.removeprefix(f"{tmp_path}/hpc-yolo-{os.getuid()}/") for line in run(tmp_path)]
    lock.close()
    assert lines[0] == "unused  2 KiB, unused for 1 min, of /data/coco"
    assert sorted(lines[1:]) == ["unfinished  1000 B, unfinished for 0 s", "used  2 KiB, used, of /data/coco"]


def test_cache_of_decoded_images_is_listed_with_its_size_on_the_disk(tmp_path):
    cache = StagedCopy(private_directory(tmp_path), "cache")
    cache.lock().close()
    cache.start()
    cache.decoded.write_bytes(b"1" * 2**20)
    num_bytes = cache.decoded.stat().st_blocks * 512
    (line,) = run(tmp_path)
    assert line == f"{cache.path}  {short_bytes(num_bytes)} of decoded images, unused for 0 s"
    (facts,) = map(json.loads, run(tmp_path, "--json", "--remove"))
    assert (facts["kind"], facts["bytes"], facts["state"]) == ("cache", num_bytes, "removed")


def test_copy_without_its_lock_file_is_listed_and_removed(copies, tmp_path):
    for copy in copies.values():
        copy.lock_path.unlink()
    os.utime(copies["unused"].path, (0, 0))
    first, *_ = run(tmp_path)
    assert first.startswith(f"{copies['unused'].path}  2 KiB, unused for ")
    assert not copies["unused"].lock_path.exists()
    assert len(run(tmp_path, "--remove")) == 3
    assert list(copies["used"].parent.iterdir()) == []


def test_unused_copies_are_removed(copies, tmp_path):
    lock = copies["used"].lock()
    assert lock.try_shared()
    facts = [json.loads(line) for line in run(tmp_path, "--remove", "--json")]
    lock.close()
    states = {fact["path"].rpartition("/")[2]: fact["state"] for fact in facts}
    assert states == {"used": "used", "unused": "removed", "unfinished": "removed"}
    assert {name: copy.path.exists() for name, copy in copies.items()} == {
        "used": True,
        "unused": False,
        "unfinished": False,
    }


@pytest.mark.parametrize("is_json", [False, True])
def test_directory_without_copies(is_json, tmp_path):
    assert run(tmp_path, *(["--json"] if is_json else [])) == ([] if is_json else ["no copies of datasets here"])
    assert list(tmp_path.iterdir()) == []


def test_unset_variable_is_named():
    done = CliRunner().invoke(staged, ["$NOPE"])
    assert done.exit_code == 2
    assert "the variable NOPE of $NOPE is not set on" in done.output
