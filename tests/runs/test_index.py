"""The index of a user's runs."""

from status_runs import make_run

from hpc_yolo.runs.index import add_to_index, gone_runs, indexed_runs, remove_from_index, state_directory


def test_index_has_each_run_once_and_drops_removed_ones(tmp_path):
    directory = state_directory({"XDG_STATE_HOME": str(tmp_path / "state")})
    assert indexed_runs(directory) == []
    first, second = make_run(tmp_path, "first"), make_run(tmp_path, "second")
    for run in (first, second, first):
        add_to_index(directory, run)
    assert [run.name for run in indexed_runs(directory)] == ["first", "second"]
    assert len((directory / "runs.jsonl").read_text().splitlines()) == 2
    first.spec.unlink()
    assert [run.name for run in indexed_runs(directory)] == ["second"]
    assert gone_runs(directory) == [first.path], "moved, or removed by other means"
    remove_from_index(directory, first)
    assert gone_runs(directory) == []
    add_to_index(directory, first)  # made anew
    first.spec.write_text("name: run\n")
    assert [run.name for run in indexed_runs(directory)] == ["second", "first"]
    assert state_directory({"HOME": "/home/me"}).as_posix() == "/home/me/.local/state/hpc-yolo"


def test_unwritable_index_is_ignored(tmp_path):
    (tmp_path / "file").write_text("")
    add_to_index(tmp_path / "file" / "state", make_run(tmp_path, "first"))
    assert indexed_runs(tmp_path / "file" / "state") == []
