"""What is drawn and what keys do: pure functions over facts, for any size of terminal and any words in them."""

from dataclasses import replace

import msgspec
import pytest
from rich.cells import cell_len
from status_runs import END, EVALUATED, START, STEP, append_events, make_run

from hpc_yolo.cluster.job_cache import JobCache
from hpc_yolo.core.units import short_bytes, short_time
from hpc_yolo.monitor.blocks import bar, plot, trend_line
from hpc_yolo.monitor.columns import COLUMNS, LIST_COLUMNS, run_json
from hpc_yolo.monitor.run_facts import RunFacts
from hpc_yolo.monitor.snapshot import Collector, Snapshot
from hpc_yolo.monitor.tui.app import frame, page, settled
from hpc_yolo.monitor.tui.detail import DetailReader, detail_lines
from hpc_yolo.monitor.tui.keys import HELP, TO_THE_END, ScreenState, decode_keys, end_of_keys, press, shown_runs
from hpc_yolo.monitor.tui.screen import help_lines, list_lines
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AnyEvent, Evaluated
from hpc_yolo.runs.metrics import Metrics
from hpc_yolo.runs.submissions import Submission

HOSTILE = "a\x1b[2Jb\x07\u009b31mc\nd\t字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字"
DECODER = msgspec.json.Decoder(AnyEvent)
STARTED, PROGRESS, BEST, RANKS = (
    DECODER.decode(msgspec.json.encode({"time": 19.0, "attempt": 1} | event))
    for event in (
        START | {"steps_per_epoch": 10, "world_size": 8, "num_nodes": 2},
        STEP | {"epoch": 1},
        EVALUATED | {"metrics": {"map50": 0.625, "map50_95": 0.5}},
        STEP | {"rank_data_wait_s": [0.25, 0.0], "rank_mem_bytes": [2**30, 1]},
    )
)
SUBMISSION = Submission(
    time=10.0, executor="slurm", job_id="7", host="login", num_nodes=2, tasks_per_node=4, gpus_per_node=4
)
SIZES = [(80, 24), (200, 50), (40, 10), (133, 37)]


def run_facts(name: str = "run", *, job_id: str = "7", images_per_s: float | None = 50.0, **changes) -> RunFacts:
    """Make facts of a run on 2 nodes x 4 tasks at step 10 of 40, with metrics."""
    facts = {
        **{"state": "running", "started": STARTED, "best": BEST, "updated": 20.0, "loss_trend": [3.0, 2.0, 1.0]},
        **{"causes": {"preempted": 2, "time limit": 1}, "checkpoint_time": 10.0},
        "submission": msgspec.structs.replace(SUBMISSION, job_id=job_id),
        "progress": msgspec.structs.replace(PROGRESS, images_per_s=images_per_s or 0.0),
    }
    return RunFacts(name=name, path=f"/runs/{name}", **(facts | changes))


def best(map50_95: float | None) -> Evaluated | None:
    return None if map50_95 is None else msgspec.structs.replace(BEST, metrics=Metrics(map50_95=map50_95))


def snapshot_of(runs, **changes) -> Snapshot:
    return Snapshot(**({"time": 100.0, "runs": list(runs)} | changes))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("num_runs", [0, 1, 300])
def test_a_list_fills_the_terminal_and_no_more(size, num_runs):
    runs = [run_facts(f"run-{number}") for number in range(num_runs)]
    for selected in (None, "/runs/run-0", "/runs/run-299"):
        lines = list_lines(snapshot_of(runs), runs, ScreenState(selected=selected), *size)
        assert len(lines) == size[1]
        shown = "\n".join(line.plain for line in lines)
        assert selected is None or num_runs < 300 or selected.rpartition("/")[2] in shown
        table = lines[2:-3] if runs else []
        assert all(cell_len(line.plain) <= size[0] for line in table)


def test_only_a_run_with_a_problem_has_a_red_mark():
    for problems, style in (([], ""), (["a problem"], "bold red")):
        runs = [run_facts(problems=problems)]
        row = list_lines(snapshot_of(runs), runs, ScreenState(), 80, 24)[3]
        assert [span.style for span in row.spans if span.start == 0] == ([style] if style else [])


def test_the_name_of_a_run_keeps_its_column_in_every_width():
    runs = [run_facts("a-name-of-16-let")]
    for width in range(80, 260):
        assert runs[0].name in list_lines(snapshot_of(runs), runs, ScreenState(), width, 24)[3].plain, width


def test_the_help_fits_a_small_terminal():
    lines = help_lines()
    assert len(lines) <= 24
    assert max(cell_len(line.plain) for line in lines) <= 80


def test_only_what_can_be_seen_is_drawn():
    class Watched(list):
        touched = 0

        def __getitem__(self, place):
            Watched.touched += 1
            return super().__getitem__(place)

    runs = Watched(run_facts(f"run-{number}") for number in range(10_000))
    list_lines(snapshot_of([]), runs, ScreenState(selected="/runs/run-9000"), 80, 24)
    assert Watched.touched < 30


def test_text_of_others_cannot_steer_the_terminal(tmp_path):
    hostile = run_facts(HOSTILE, state="failed", detail=HOSTILE, problems=[HOSTILE], job_id=HOSTILE)
    state = ScreenState(selected=hostile.path)
    snapshot = snapshot_of([hostile], slurm_error=HOSTILE)
    lines = [*frame(snapshot, None, [hostile], state, (80, 24))]
    lines += frame(snapshot, None, [hostile], replace(state, mode="cancel"), (80, 24))
    lines += frame(snapshot, None, [hostile], replace(state, mode="filter", filter_text=HOSTILE), (80, 24))
    run = make_run(tmp_path, "run")
    start = START | {"ranks": [rank | {"host": HOSTILE} for rank in START["ranks"]]}
    append_events(
        run, start, STEP, {"event": "warning", "message": HOSTILE}, END | {"detail": HOSTILE, "cause": HOSTILE}
    )
    detail = replace(DetailReader(run).read(), path=hostile.path)
    for scroll in (0, 20, 40):
        opened = replace(state, mode="detail", scroll=scroll)
        lines += frame(snapshot, page(snapshot, detail, (), opened, 80), [hostile], opened, (80, 24))
    opened = replace(state, mode="logs")
    lines += frame(snapshot, page(snapshot, None, (HOSTILE,), opened, 80), [hostile], opened, (80, 24))
    assert any("last warnings" in line.plain for line in lines)
    assert [line.plain for line in lines if not line.plain.isprintable()] == []


@pytest.mark.parametrize("size", [(80, 24), (200, 50)], ids=str)
def test_the_columns_are_those_that_fit(size):
    run = run_facts("first", images_per_s=16 * 30 / 3700.0, step_logged=RANKS)
    lines = list_lines(snapshot_of([run]), [run], ScreenState(), *size)
    words = lines[3].plain
    for expected in (
        "first",
        "running",
        "2/4",
        "0.600",
        "0.500",
        "0.1",
        *(["2 x 4", "25%", "1.0 GiB", "1 h 1 min", "█▅▁", "2 preempted, 1 time limit", "10 s"] * (size[0] > 80)),
    ):
        assert expected in words
    assert "8 GPUs" in lines[0].plain


def test_an_old_answer_of_slurm_says_how_old_it_is():
    runs = [run_facts()]
    fresh = list_lines(snapshot_of(runs, slurm_time=96.0), runs, ScreenState(), 120, 24)[1].plain
    old = list_lines(snapshot_of(runs, slurm_time=40.0, slurm_error="silent"), runs, ScreenState(), 120, 24)[1].plain
    never = list_lines(snapshot_of(runs, slurm_error="silent"), runs, ScreenState(), 120, 24)[1].plain
    assert "Slurm 4 s ago" in fresh
    assert "Slurm as of 1 min ago: silent" in old
    assert "Slurm has not answered yet: silent" in never


def test_a_run_in_detail_has_curves_ranks_attempts_and_what_failed(tmp_path):
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
    for words in (
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
        assert words in text, words
    lost = next(place for place, line in enumerate(page) if "preempted  " in line.plain)
    assert "steps 0-39, 1 node, 2 ranks" in page[lost].plain
    assert len(page[lost].plain) <= 80 and page[lost + 1].plain.strip() == "SIGTERM"
    assert [line.plain.split()[0] for line in page if str(line.style) == "bold red" and "gpu" in line.plain] == ["1"]


def test_a_page_keeps_to_its_end(tmp_path):
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


@pytest.mark.parametrize(
    ("received", "keys", "rest"),
    [
        (b"jk", ["j", "k"], b""),
        (b"\x1b[A\x1bOB\x1b[5~\r", ["up", "down", "page up", "enter"], b""),
        (b"\x1b", [], b"\x1b"),
        (b"\x1b[", [], b"\x1b["),
        (b"\x1b[5", [], b"\x1b[5"),
        (b"\x1bq", ["escape", "q"], b""),
        (b"\x1b[99;5Xq", ["q"], b""),
        ("ä".encode(), ["ä"], b""),
        ("ä".encode()[:1], [], "ä".encode()[:1]),
        (b"\xff\x00q", [], b"\xff\x00q"),
        (b"\x01\x7f", ["backspace"], b""),
    ],
)
def test_bytes_of_a_terminal_are_keys(received, keys, rest):
    assert decode_keys(received) == (keys, rest)
    assert end_of_keys(b"\x1b") == ["escape"]


RUNS = [
    run_facts("a", state="done", best=best(0.9), images_per_s=None),
    run_facts("b", state="failed", best=None),
    run_facts("c", problems=["odd"], best=best(0.1), updated=90.0),
]


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ([], "bca"),
        (["s"], "abc"),
        (["s", "S"], "cba"),
        (["s", "s"], "bca"),
        (["s", "s", "s"], "cab"),
        (["s", "s", "s", "s"], "acb"),
        (["p"], "bc"),
        (["p", "escape"], "bca"),
        (["/", "d", "o", "n", "enter"], "a"),
        (["/", "d", "o", "x", "backspace", "enter"], "a"),
        (["/", "d", "escape"], "bca"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_keys_sort_and_filter(keys, names):
    state = ScreenState()
    for key in keys:
        state = press(state, key, shown_runs(RUNS, state), 18)
    assert "".join(run.name for run in shown_runs(RUNS, state)) == names


@pytest.mark.parametrize(
    ("keys", "selected", "mode", "action"),
    [
        (["down"], "c", "list", ""),
        (["down", "down", "down", "down"], "a", "list", ""),
        (["end", "up"], "c", "list", ""),
        (["G", "g"], "b", "list", ""),
        (["page down", "page up"], "b", "list", ""),
        (["enter"], "b", "detail", ""),
        (["enter", "down", "q"], "b", "list", ""),
        (["q"], "b", "list", "quit"),
        (["?", "q"], "b", "list", ""),
        (["c"], "b", "cancel", ""),
        (["c", "y"], "b", "list", "cancel"),
        (["c", "enter"], "b", "list", ""),
        (["c", "y", "down"], "c", "list", ""),
        (["j", "c", "n"], "c", "list", ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_keys_move_open_and_ask_before_they_cancel(keys, selected, mode, action):
    state = ScreenState()
    for key in keys:
        state = settled(state, runs := shown_runs(RUNS, state))
        state = press(state, key, runs, 18)
    assert (state.selected, state.mode, state.action) == (f"/runs/{selected}", mode, action)


def test_the_chosen_run_stays_chosen_while_others_come_and_go():
    state = settled(ScreenState(selected="/runs/c"), RUNS)
    assert settled(state, list(reversed(RUNS))).selected == "/runs/c"
    assert settled(state, RUNS[:2]).selected == "/runs/a"
    assert settled(state, []).selected is None


def test_every_key_of_the_help_is_in_it_once():
    assert len({keys for keys, _ in HELP}) == len(HELP)


def test_marks():
    assert [short_time(seconds) for seconds in (0, 59.6, 185, 7810, 90000 * 4)] == [
        *("0 s", "1 min", "3 min 5 s", "2 h 10 min", "4 d 4 h"),
    ]
    assert [short_bytes(size) for size in (5, 2048, 3 * 2**30)] == ["5 B", "2 KiB", "3.0 GiB"]
    assert trend_line([]) == ""
    assert trend_line([1.0, 1.0]) == "▁▁"
    assert trend_line([0.0, 0.5, 1.0]) in ("▁▄█", "▁▅█")
    assert (bar(0.0, 2), bar(0.5, 2), bar(1.7, 2)) == ("  ", "█ ", "██")
    assert plot([0, 1], [0.0, 1.0], 2, 2) == [" █", "▁█"]
    assert plot([], [], 3, 1) == ["   "]


def test_a_page_that_was_at_its_end_goes_up_at_once_and_logs_follow_what_comes():
    """Scrolling up from far below the last line would do nothing for as many keys."""
    at_end = press(ScreenState(mode="detail", selected="a"), "G", [], 20, last_scroll=50)
    assert press(at_end, "k", [], 20, last_scroll=50).scroll == 49
    logs = press(ScreenState(selected="a"), "l", [], 20)
    assert (logs.mode, press(logs, "j", [], 20, last_scroll=50).scroll) == ("logs", TO_THE_END)
    up = press(logs, "k", [], 20, last_scroll=50)
    assert up.scroll == 49
    assert press(up, "j", [], 20, last_scroll=50).scroll == TO_THE_END, "and stays there when lines come"


def test_logs_show_their_last_lines_and_say_how_many_are_above():
    snapshot = snapshot_of([run_facts()])
    state = ScreenState(mode="logs", selected="/runs/run", scroll=TO_THE_END)
    output = [f"0: line {number}" for number in range(100)]
    lines = frame(snapshot, page(snapshot, None, output, state, 80), [], state, (80, 10))
    assert [line.plain for line in lines[:-1]] == output[-9:]
    assert "91 lines above" in lines[-1].plain


def test_where_the_time_went_adds_up(tmp_path):
    """30 s of steps, 10 s in the queue: what a person sees of the ledger."""
    run = make_run(tmp_path, "first", time=10.0)
    append_events(run, START, {**STEP, "time": 50.0}, {**END, "time": 50.0, "outcome": "finished", "requeued": False})
    detail = DetailReader(run).read()
    assert detail.ledger.total_s == pytest.approx(40.0)
    facts = Collector(lambda: [run], JobCache(tmp_path, {})).refresh().runs[0]
    shown = [line.plain.split() for line in detail_lines(facts, detail, 60.0, 80)]
    assert [words[:4] for words in shown if words and words[0] in ("queue", "step")] == [
        ["queue", "10", "s", "25.0%"],
        ["step", "30", "s", "75.0%"],
    ]


def test_every_column_of_the_screens_is_in_the_json_of_a_run():
    facts = run_json(run_facts(step_logged=RANKS))
    assert set(facts) == {column.name for column in COLUMNS}
    assert (facts["epoch"], facts["num_nodes"], facts["map50"], facts["eta_s"]) == (1, 2, 0.625, 30 * 16 / 50.0)
    assert msgspec.json.decode(msgspec.json.encode(facts)) == facts


def test_a_column_without_a_value_shows_a_dash():
    unstarted = RunFacts(name="new", path="/runs/new", state="unstarted")
    texts = {column.name: column.text_of(unstarted) for column in LIST_COLUMNS}
    known = {"state", "num_nodes", "attempts", "causes", "loss_trend", "map_trend"}
    assert {name for name, text in texts.items() if text == "-"} == set(texts) - known
