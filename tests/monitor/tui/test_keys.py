"""Keys of the live screen: bytes to keys, and keys to the next state."""

import pytest
from shown_runs import best, run_facts

from hpc_yolo.monitor.run_facts import RunFacts
from hpc_yolo.monitor.snapshot import Snapshot
from hpc_yolo.monitor.tui.app import settled
from hpc_yolo.monitor.tui.keys import HELP, TO_THE_END, ScreenState, decode_keys, end_of_keys, press, shown_runs


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
def test_decode_keys(received, keys, rest):
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
        state = press(state, key, shown_runs(Snapshot(time=0.0, runs=RUNS), state), 18)
    assert "".join(run.name for run in shown_runs(Snapshot(time=0.0, runs=RUNS), state)) == names


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
        state = settled(state, runs := shown_runs(Snapshot(time=0.0, runs=RUNS), state))
        state = press(state, key, runs, 18)
    assert (state.selected, state.mode, state.action) == (f"/runs/{selected}", mode, action)


def test_selected_run_stays_selected_when_others_change():
    state = settled(ScreenState(selected="/runs/c"), RUNS)
    assert settled(state, list(reversed(RUNS))).selected == "/runs/c"
    assert settled(state, RUNS[:2]).selected == "/runs/a"
    assert settled(state, []).selected is None


def test_help_lists_each_key_once():
    assert len({keys for keys, _ in HELP}) == len(HELP)


def test_scroll_leaves_the_end_at_once_and_logs_follow_new_lines():
    """Scrolling up from far below the last line would do nothing for as many keys."""
    at_end = press(ScreenState(mode="detail", selected="a"), "G", [], 20, last_scroll=50)
    assert press(at_end, "k", [], 20, last_scroll=50).scroll == 49
    logs = press(ScreenState(selected="a"), "l", [], 20)
    assert (logs.mode, press(logs, "j", [], 20, last_scroll=50).scroll) == ("logs", TO_THE_END)
    up = press(logs, "k", [], 20, last_scroll=50)
    assert up.scroll == 49
    assert press(up, "j", [], 20, last_scroll=50).scroll == TO_THE_END, "and stays there when lines come"


def test_enter_lists_the_trials_of_a_sweep_below_it_and_hides_them_again():
    trials = [RunFacts(name=f"1-000{n}", path=f"/lr/1-000{n}", state="done", sweep="/lr") for n in range(2)]
    snapshot = Snapshot(time=0.0, runs=[RunFacts(name="z", path="/z", state="done"), *trials], sweeps={"/lr": 3})
    state = ScreenState(sort="name")
    names = []
    for key in ("", "enter", "down", "enter", "escape", "up", "enter"):
        runs = shown_runs(snapshot, state)
        state = press(settled(state, runs), key, runs, 18)
        names.append((" ".join(run.name for run in shown_runs(snapshot, state)), state.mode))
    folded_rows, opened_rows = "lr z", "lr 1-0000 1-0001 z"
    assert names == [
        (folded_rows, "list"),
        (opened_rows, "list"),
        (opened_rows, "list"),
        (opened_rows, "detail"),
        (opened_rows, "list"),
        (opened_rows, "list"),
        (folded_rows, "list"),
    ]


@pytest.mark.parametrize("key", ["l", "r"])
def test_keys_for_a_run_on_a_sweep_change_no_mode(key):
    snapshot = Snapshot(time=0.0, runs=[], sweeps={"/lr": 3})
    state = ScreenState(selected="/lr")
    pressed = press(state, key, shown_runs(snapshot, state), 18)
    assert (pressed.mode, pressed.message) == (
        "list",
        "its trials have output and jobs, not the sweep: enter lists them",
    )
