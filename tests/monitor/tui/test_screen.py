"""The list of runs as lines of a terminal: any size of terminal, any text in the facts."""

from dataclasses import replace

import pytest
from rich.cells import cell_len
from shown_runs import RANKS, run_facts, snapshot_of
from status_runs import END, START, STEP, append_events, make_run

from hpc_yolo.monitor.tui.app import frame, page
from hpc_yolo.monitor.tui.detail import DetailReader
from hpc_yolo.monitor.tui.keys import ScreenState
from hpc_yolo.monitor.tui.screen import help_lines, list_lines

HOSTILE = "a\x1b[2Jb\x07\u009b31mc\nd\t字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字字"


SIZES = [(80, 24), (200, 50), (40, 10), (133, 37)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("num_runs", [0, 1, 300])
def test_list_fills_the_terminal_exactly(size, num_runs):
    runs = [run_facts(f"run-{number}") for number in range(num_runs)]
    for selected in (None, "/runs/run-0", "/runs/run-299"):
        lines = list_lines(snapshot_of(runs), runs, ScreenState(selected=selected), *size)
        assert len(lines) == size[1]
        shown = "\n".join(line.plain for line in lines)
        assert selected is None or num_runs < 300 or selected.rpartition("/")[2] in shown
        table = lines[2:-3] if runs else []
        assert all(cell_len(line.plain) <= size[0] for line in table)


@pytest.mark.parametrize("size", [(80, 24), (39, 9), (13, 4)], ids=str)
@pytest.mark.parametrize(("num_trials", "what"), [(0, "the job of run"), (3, "all trials of run")])
def test_question_before_an_action_is_shown_at_any_size(size, num_trials, what):
    runs = [run_facts(num_trials=num_trials)]
    lines = list_lines(snapshot_of(runs), runs, ScreenState(selected=runs[0].path, mode="cancel"), *size)
    assert " ".join(line.plain for line in lines).endswith(f"cancel {what}? y / n")
    assert all(cell_len(line.plain) <= size[0] for line in lines[-2:])


def test_run_with_a_problem_has_a_red_mark():
    for problems, style in (([], ""), (["a problem"], "bold red")):
        runs = [run_facts(problems=problems)]
        row = list_lines(snapshot_of(runs), runs, ScreenState(), 80, 24)[3]
        assert [span.style for span in row.spans if span.start == 0 and span.style] == ([style] if style else [])


def test_name_of_16_letters_fits_every_width():
    runs = [run_facts("a-name-of-16-let")]
    for width in range(80, 260):
        assert runs[0].name in list_lines(snapshot_of(runs), runs, ScreenState(), width, 24)[3].plain, width


def test_help_fits_80_columns():
    lines = help_lines()
    assert len(lines) <= 24
    assert max(cell_len(line.plain) for line in lines) <= 80


def test_list_draws_visible_runs_only():
    class Watched(list):
        touched = 0

        def __getitem__(self, index):
            Watched.touched += 1
            return super().__getitem__(index)

    runs = Watched(run_facts(f"run-{number}") for number in range(10_000))
    list_lines(snapshot_of([]), runs, ScreenState(selected="/runs/run-9000"), 80, 24)
    assert Watched.touched < 30


def test_control_characters_do_not_reach_the_terminal(tmp_path):
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
def test_list_has_the_columns_that_fit(size):
    run = run_facts("first", images_per_s=16 * 30 / 3700.0, step_logged=RANKS)
    lines = list_lines(snapshot_of([run]), [run], ScreenState(), *size)
    row = lines[3].plain
    for expected in (
        "first",
        "running",
        "2/4",
        "0.600",
        "0.500",
        "0.1",
        *(["2 x 4", "25%", "1.0 GiB", "1 h 1 min", "█▅▁", "2 preempted, 1 time limit", "10 s"] * (size[0] > 80)),
    ):
        assert expected in row
    assert "8 GPUs" in lines[0].plain


def test_header_shows_age_of_slurms_reply():
    runs = [run_facts()]
    fresh = list_lines(snapshot_of(runs, slurm_time=96.0), runs, ScreenState(), 120, 24)[1].plain
    old = list_lines(snapshot_of(runs, slurm_time=40.0, slurm_error="silent"), runs, ScreenState(), 120, 24)[1].plain
    never = list_lines(snapshot_of(runs, slurm_error="silent"), runs, ScreenState(), 120, 24)[1].plain
    assert "Slurm 4 s ago" in fresh
    assert "Slurm as of 1 min ago: silent" in old
    assert "Slurm has not answered yet: silent" in never
