"""What keys mean: bytes of a terminal -> names of keys -> the next state of the screen. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hpc_yolo.monitor.snapshot import RunFacts

ESCAPE = b"\x1b"
_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[A-Za-z])")
_CUT_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|O)?$")
_NAMES = {
    **{b"\x1b[A": "up", b"\x1bOA": "up", b"\x1b[B": "down", b"\x1bOB": "down"},
    **{b"\x1b[5~": "page up", b"\x1b[6~": "page down"},
    **{b"\x1b[H": "home", b"\x1bOH": "home", b"\x1b[1~": "home", b"\x1b[F": "end", b"\x1bOF": "end", b"\x1b[4~": "end"},
    **{b"\r": "enter", b"\n": "enter", b"\x7f": "backspace", b"\x08": "backspace"},
}
SORTS = ("problems", "name", "state", "updated", "mAP", "img/s", "left")
STATE_ORDER = (
    "failed",
    "lost",
    "unreadable",
    "running",
    "saving",
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
    ("up down, j k", "choose a run; in a run, scroll"),
    ("page up/down, space b", "a page further, or back"),
    ("home end, g G", "first, last"),
    ("enter", "everything about the chosen run"),
    ("l", "what the chosen run's ranks print"),
    ("esc, q", "back; in the list, q leaves"),
    ("/", "show runs whose name or state has some words"),
    ("s, S", "sort by the next column; turn the order round"),
    ("p", "only runs with problems"),
    ("c", "cancel the chosen run's job, after a question"),
    ("r", "queue the chosen run's job again, after a question"),
    ("?", "this help"),
)


@dataclass(frozen=True)
class ScreenState:
    """What a person has chosen to see.

    Attributes:
        mode: list, detail, logs, help, filter (words are being typed), cancel or requeue (yes or no is awaited).
        selected: path of the chosen run; None until there is one.
        scroll: first line shown of a page; `TO_THE_END` for its last ones, whatever comes.
        message: shown until the next key.
        wanted: what the key asks of the program: "", cancel, requeue or quit.
    """

    mode: str = "list"
    selected: str | None = None
    scroll: int = 0
    sort: str = SORTS[0]
    is_reversed: bool = False
    only_problems: bool = False
    words: str = ""
    message: str = ""
    wanted: str = ""


def decode_keys(received: bytes) -> tuple[list[str], bytes]:
    """(names of the keys in `received`, bytes at its end that may begin one). Unknown keys are left out."""
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
    """What the `rest` of `decode_keys` means when nothing follows: the escape key itself."""
    return ["escape"] if rest.startswith(ESCAPE) else []


def shown_runs(runs: Sequence[RunFacts], state: ScreenState) -> list[RunFacts]:
    """Those of `runs` that `state` lets through, in its order."""
    words = state.words.lower().split()
    chosen = [
        run
        for run in runs
        if (not state.only_problems or has_problem(run))
        and all(word in f"{run.name} {run.state} {run.job_id or ''}".lower() for word in words)
    ]
    return sorted(chosen, key=lambda run: _sort_key(run, state.sort), reverse=state.is_reversed)


def has_problem(run: RunFacts) -> bool:
    """Whether a person should look at the run."""
    return bool(run.problems) or run.state in ("failed", "lost", "unreadable")


def press(
    state: ScreenState, key: str, runs: Sequence[RunFacts], page_rows: int, last_scroll: int = TO_THE_END
) -> ScreenState:
    """The state after `key`.

    Args:
        runs: as shown.
        page_rows: lines between the header and the last line.
        last_scroll: of the page that is open, the first line when its last is shown.
    """
    state = replace(state, message="", wanted="")
    if state.mode == "filter":
        return _type(state, key)
    if state.mode in ACTIONS.values():
        return replace(state, mode="list", wanted=state.mode if key in ("y", "Y") else "")
    if key == "?":
        return replace(state, mode="list" if state.mode == "help" else "help")
    if state.mode == "help":
        return replace(state, mode="list")
    if key in ACTIONS and state.selected is not None:
        return replace(state, mode=ACTIONS[key])
    if key == "l" and state.selected is not None and state.mode != "logs":
        return replace(state, mode="logs", scroll=TO_THE_END)
    move = _moves(page_rows).get(key)
    if state.mode in PAGES:
        if key in ("escape", "q", "backspace"):
            return replace(state, mode="list", scroll=0)
        if move is None:
            return state
        scroll = max(0, min(state.scroll, last_scroll) + move)
        return replace(state, scroll=TO_THE_END if state.mode == "logs" and scroll >= last_scroll else scroll)
    if move is not None:
        return replace(state, selected=_moved(state, runs, move))
    return _press_in_list(state, key)


def _press_in_list(state: ScreenState, key: str) -> ScreenState:
    if key == "q":
        return replace(state, wanted="quit")
    if key == "enter" and state.selected is not None:
        return replace(state, mode="detail", scroll=0)
    if key == "/":
        return replace(state, mode="filter")
    if key == "escape":
        return replace(state, words="", only_problems=False)
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
        return replace(state, mode="list", words="")
    if key == "backspace":
        return replace(state, words=state.words[:-1])
    return replace(state, words=state.words + key) if len(key) == 1 else state


def _moves(page_rows: int) -> dict[str, int]:
    """How many lines each key goes down."""
    page, all_lines = max(1, page_rows - 1), TO_THE_END
    moves = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -page, "b": -page, "page down": page, " ": page}
    return moves | {"home": -all_lines, "g": -all_lines, "end": all_lines, "G": all_lines}


def _moved(state: ScreenState, runs: Sequence[RunFacts], move: int) -> str | None:
    if not runs:
        return None
    place = selected_place(runs, state.selected)
    return runs[min(max(place + move, 0), len(runs) - 1)].path


def selected_place(runs: Sequence[RunFacts], selected: str | None) -> int:
    """Where the chosen run stands in `runs`; the first where it is not there."""
    return next((place for place, run in enumerate(runs) if run.path == selected), 0)


def _sort_key(run: RunFacts, sort: str) -> tuple[object, ...]:
    order = STATE_ORDER.index(run.state)
    figures: dict[str, tuple[object, ...]] = {
        "problems": (not has_problem(run), order),
        "name": (),
        "state": (order,),
        "updated": (-(run.updated or 0.0),),
        "mAP": (-(run.metrics.map50_95 if run.metrics is not None else -1.0),),
        "img/s": (-(run.images_per_s or 0.0),),
        "left": (run.left_s is None, run.left_s or 0.0),
    }
    return (*figures[sort], run.name, run.path)
