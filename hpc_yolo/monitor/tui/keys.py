"""Keys of the live screen: bytes of a terminal -> names of keys -> the next state of the screen. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hpc_yolo.monitor.run_facts import RunFacts
from hpc_yolo.monitor.snapshot import Snapshot
from hpc_yolo.monitor.sweep_rows import folded, with_trials

ESCAPE = b"\x1b"
_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[A-Za-z])")
_CUT_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|O)?$")
_NAMES = {
    **{b"\x1b[A": "up", b"\x1bOA": "up", b"\x1b[B": "down", b"\x1bOB": "down"},
    **{b"\x1b[5~": "page up", b"\x1b[6~": "page down"},
    **{b"\x1b[H": "home", b"\x1bOH": "home", b"\x1b[1~": "home", b"\x1b[F": "end", b"\x1bOF": "end", b"\x1b[4~": "end"},
    **{b"\r": "enter", b"\n": "enter", b"\x7f": "backspace", b"\x08": "backspace"},
}
SORTS = ("problems", "name", "state", "updated", "mAP", "img/s", "ETA")
STATE_ORDER = (
    "failed",
    "lost",
    "unreadable",
    "running",
    "saving",
    "suspended",
    "requeued",
    "queued",
    "unstarted",
    "stopped",
    "cancelled",
    "done",
    "gone",
)
ACTIONS = {"c": "cancel", "r": "requeue"}  # each asks yes or no first
TO_THE_END = 10**9
PAGES = ("detail", "logs")  # of one run, which scroll
HELP = (
    ("up down, j k", "select a run; on the page of a run, scroll"),
    ("page up/down, space b", "one page down, or up"),
    ("home end, g G", "first, last"),
    ("enter", "the page of the run; the trials of a sweep"),
    ("l", "output of the selected run's ranks"),
    ("esc, q", "back; in the list, q leaves"),
    ("/", "only runs whose name, state or job contains a text"),
    ("s, S", "sort by the next column; reverse the order"),
    ("p", "only runs with problems"),
    ("c", "cancel the selected run's job, after a question"),
    ("r", "requeue the selected run's job, after a question"),
    ("?", "this help"),
)


@dataclass(frozen=True)
class ScreenState:
    """What the screen shows, as chosen by keys.

    Attributes:
        mode: list, detail, logs, help, filter (a text is typed), cancel or requeue (yes or no is awaited).
        selected: path of the selected run; None until there is one.
        scroll: first line shown of a page; `TO_THE_END` for its last ones, whatever comes.
        message: shown until the next key.
        filter_text: only runs that contain each of its words are shown.
        action: what the key asks the program to do: "", cancel, requeue or quit.
        opened: paths of the sweeps whose trials are listed.
    """

    mode: str = "list"
    selected: str | None = None
    scroll: int = 0
    sort: str = SORTS[0]
    is_reversed: bool = False
    only_problems: bool = False
    filter_text: str = ""
    message: str = ""
    action: str = ""
    opened: frozenset[str] = frozenset()


def decode_keys(received: bytes) -> tuple[list[str], bytes]:
    """Return (names of the keys in `received`, bytes at its end that may begin one), without unknown keys."""
    keys = []
    while received:
        if received.startswith(ESCAPE):
            if (match := _SEQUENCE.match(received)) is not None:
                keys.append(_NAMES.get(match[0], ""))
                received = received[match.end() :]
                continue
            if _CUT_SEQUENCE.match(received):
                break
            keys.append("escape")
            received = received[1:]
            continue
        size = 1 if received[0] < 0x80 else 2 if received[0] < 0xE0 else 3 if received[0] < 0xF0 else 4
        if size > len(received):
            break
        letter = received[:size]
        text = letter.decode(errors="ignore")
        keys.append(_NAMES.get(letter, text if text.isprintable() else ""))
        received = received[size:]
    return [key for key in keys if key], received


def end_of_keys(rest: bytes) -> list[str]:
    """Return the keys that the `rest` of `decode_keys` stands for when nothing follows: the escape key itself."""
    return ["escape"] if rest.startswith(ESCAPE) else []


def shown_runs(snapshot: Snapshot, state: ScreenState) -> list[RunFacts]:
    """Return the runs and sweeps that pass the filters of `state`, in its order, with the trials of open sweeps."""
    words = state.filter_text.lower().split()
    rows, trials = folded(snapshot.runs, snapshot.sweeps)
    passed = [
        run
        for run in rows
        if (not state.only_problems or run.needs_attention)
        and all(word in f"{run.name} {run.state} {run.job_id or ''}".lower() for word in words)
    ]
    passed.sort(key=lambda run: _sort_key(run, state.sort), reverse=state.is_reversed)
    return with_trials(passed, trials, state.opened)


def press(
    state: ScreenState, key: str, runs: Sequence[RunFacts], page_rows: int, last_scroll: int = TO_THE_END
) -> ScreenState:
    """Return the state after `key`.

    Args:
        runs: as shown.
        page_rows: lines between the header and the last line.
        last_scroll: of the page that is open, the first line when its last is shown.
    """
    state = replace(state, message="", action="")
    if state.mode == "filter":
        return _type(state, key)
    if state.mode in ACTIONS.values():
        return replace(state, mode="list", action=state.mode if key in ("y", "Y") else "")
    if key == "?" or state.mode == "help":
        return replace(state, mode="list" if state.mode == "help" else "help")
    is_sweep = any(run.path == state.selected and run.num_trials for run in runs)
    if is_sweep and key in ("l", "r"):
        return replace(state, message="its trials have output and jobs, not the sweep: enter lists them")
    if key in ACTIONS and state.selected is not None:
        return replace(state, mode=ACTIONS[key])
    if key == "l" and state.selected is not None and state.mode != "logs":
        return replace(state, mode="logs", scroll=TO_THE_END)
    move = _moves(page_rows).get(key)
    if state.mode in PAGES:
        return _press_in_page(state, key, move, last_scroll)
    if move is not None:
        return replace(state, selected=_moved(state, runs, move))
    if key == "enter" and is_sweep:
        return replace(state, opened=state.opened ^ {state.selected or ""})
    return _press_in_list(state, key)


def _press_in_page(state: ScreenState, key: str, move: int | None, last_scroll: int) -> ScreenState:
    if key in ("escape", "q", "backspace"):
        return replace(state, mode="list", scroll=0)
    if move is None:
        return state
    scroll = max(0, min(state.scroll, last_scroll) + move)
    return replace(state, scroll=TO_THE_END if state.mode == "logs" and scroll >= last_scroll else scroll)


def _press_in_list(state: ScreenState, key: str) -> ScreenState:
    if key == "q":
        return replace(state, action="quit")
    if key == "enter" and state.selected is not None:
        return replace(state, mode="detail", scroll=0)
    if key == "/":
        return replace(state, mode="filter")
    if key == "escape":
        return replace(state, filter_text="", only_problems=False)
    if key == "p":
        return replace(state, only_problems=not state.only_problems)
    if key == "s":
        return replace(state, sort=SORTS[(SORTS.index(state.sort) + 1) % len(SORTS)])
    if key == "S":
        return replace(state, is_reversed=not state.is_reversed)
    return state


def _type(state: ScreenState, key: str) -> ScreenState:
    if key == "enter":
        return replace(state, mode="list")
    if key == "escape":
        return replace(state, mode="list", filter_text="")
    if key == "backspace":
        return replace(state, filter_text=state.filter_text[:-1])
    return replace(state, filter_text=state.filter_text + key) if len(key) == 1 else state


def _moves(page_rows: int) -> dict[str, int]:
    """Return how many lines each key goes down."""
    page, all_lines = max(1, page_rows - 1), TO_THE_END
    moves = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -page, "b": -page, "page down": page, " ": page}
    return moves | {"home": -all_lines, "g": -all_lines, "end": all_lines, "G": all_lines}


def _moved(state: ScreenState, runs: Sequence[RunFacts], move: int) -> str | None:
    if not runs:
        return None
    index = selected_index(runs, state.selected)
    return runs[min(max(index + move, 0), len(runs) - 1)].path


def selected_index(runs: Sequence[RunFacts], selected: str | None) -> int:
    """Return the index of the selected run in `runs`; 0 where it is not among them."""
    return next((index for index, run in enumerate(runs) if run.path == selected), 0)


def _sort_key(run: RunFacts, sort: str) -> tuple[object, ...]:
    order = STATE_ORDER.index(run.state)
    keys: dict[str, tuple[object, ...]] = {
        "problems": (not run.needs_attention, order),
        "name": (),
        "state": (order,),
        "updated": (-(run.updated or 0.0),),
        "mAP": (-(run.metrics.map50_95 if run.metrics is not None else -1.0),),
        "img/s": (-(run.images_per_s or 0.0),),
        "ETA": (run.eta_s is None, run.eta_s or 0.0),
    }
    return (*keys[sort], run.name, run.path)
