"""The page of one run."""

import msgspec
import pytest
from shown_runs import run_facts, snapshot_of
from status_runs import END, START, STEP, append_events, make_run

from hpc_yolo.cluster.job_cache import JobCache
from hpc_yolo.monitor.snapshot import Collector
from hpc_yolo.monitor.tui.app import frame, page
from hpc_yolo.monitor.tui.detail import DetailReader, detail_lines
from hpc_yolo.monitor.tui.keys import TO_THE_END, ScreenState
from hpc_yolo.runs.directory import RunDirectory


def test_page_has_curves_ranks_attempts_and_failure(tmp_path):
    run = make_run(tmp_path, "first")
    late, figures = [0.0, 0.4], {"rank_forward_s": [0.125, 0.25], "rank_device_use": [None, 0.42]}
    append_events(
        run,
        START,
        *(STEP | {"step": step, "losses": {"box": 1 / step}} for step in range(1, 40)),
        END | {"cause": "preempted"},
    )
    append_events(
        run, START | {"attempt": 2, "step": 39}, STEP | {"attempt": 2, "step": 40, "rank_data_wait_s": late} | figures
    )
    detail = DetailReader(run).read()
    page = detail_lines(run_facts("first"), detail, 100.0, 80)
    text = "\n".join(line.plain for line in page)
    for expected in (
        "curves",
        "box 0.1 ",
        "lr 0.01",
        "gpu1",
        "rank 1 waits 0.40 s",
        "preempted",
        "running",
        "█·▓",
        "0.125",
        " 42%",
    ):
        assert expected in text, expected
    lost = next(index for index, line in enumerate(page) if "preempted  " in line.plain)
    assert "steps 0-39, 1 node, 2 ranks" in page[lost].plain
    assert len(page[lost].plain) <= 80 and page[lost + 1].plain.strip() == "SIGTERM"
    assert [line.plain.split()[0] for line in page if str(line.style) == "bold red" and "gpu" in line.plain] == ["1"]


def test_page_scrolls_to_its_last_line(tmp_path):
    run = make_run(tmp_path, "first")
    append_events(run, START, STEP)
    facts = msgspec.structs.replace(run_facts("first"), path=str(run.path))
    detail = DetailReader(RunDirectory(run.path)).read()
    state = ScreenState(mode="detail", selected=facts.path, scroll=10**9)
    opened = page(snapshot_of([facts]), detail, (), state, 80)
    lines = frame(snapshot_of([facts]), opened, [facts], state, (80, 24))
    assert len(lines) == 24
    assert "attempt" in "\n".join(line.plain for line in lines)
    assert lines[-2].plain.strip() != ""


def test_logs_show_last_lines_and_count_those_above():
    snapshot = snapshot_of([run_facts()])
    state = ScreenState(mode="logs", selected="/runs/run", scroll=TO_THE_END)
    output = [f"0: line {number}" for number in range(100)]
    lines = frame(snapshot, page(snapshot, None, output, state, 80), [], state, (80, 10))
    assert [line.plain for line in lines[:-1]] == output[-9:]
    assert "91 lines above" in lines[-1].plain


def test_time_by_kind_adds_up(tmp_path):
    """30 s of steps, 10 s in the queue: what a person sees of the ledger."""
    run = make_run(tmp_path, "first", time=10.0)
    append_events(run, START, {**STEP, "time": 50.0}, {**END, "time": 50.0, "outcome": "finished", "requeued": False})
    detail = DetailReader(run).read()
    assert detail.ledger.total_s == pytest.approx(40.0)
    facts = Collector(lambda: [run], JobCache(tmp_path, {})).refresh().runs[0]
    shown = [line.plain.split() for line in detail_lines(facts, detail, 60.0, 80)]
    assert [parts[:4] for parts in shown if parts and parts[0] in ("queue", "step")] == [
        ["queue", "10", "s", "25.0%"],
        ["step", "30", "s", "75.0%"],
    ]


def test_page_comes_back_after_an_error_of_the_file_system(tmp_path):
    run = make_run(tmp_path, "first")
    append_events(run, START, STEP)
    reader = DetailReader(run)
    assert reader.read().started is not None
    run.path.rename(tmp_path / "away")
    run.path.write_text("no directory")
    assert "Not a directory" in reader.read().error
    run.path.unlink()
    (tmp_path / "away").rename(run.path)
    assert (reader.read().error, reader.read().started is not None) == ("", True)
