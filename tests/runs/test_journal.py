"""The journal is what every screen reads: it must survive crashes, strangers and time."""

import json
import math
import re
import stat

import pytest
from journal_events import ranks_on, started, stepped

from hpc_yolo.core.errors import RunError
from hpc_yolo.runs.directory import RunDirectory, find_runs
from hpc_yolo.runs.event_lines import event_line
from hpc_yolo.runs.events import (
    AttemptEnded,
    CheckpointSaved,
    EpochEnded,
    Evaluated,
    StepLogged,
    WarningRaised,
)
from hpc_yolo.runs.failures import Failure, first_failure, write_failure
from hpc_yolo.runs.journal import JournalReader, JournalWriter, read_events, read_tail, require_format
from hpc_yolo.runs.metrics import Metrics


def step_event(**changes):
    values = {
        "epoch": 1,
        "step": 20,
        "losses": {"box": 0.1, "obj": 0.2, "cls": 0.3},
        "grad_norm": 4.0,
        "lr": 0.01,
        "images_per_s": 30.0,
        "rank_step_s": [0.5, 0.6],
        "rank_data_wait_s": [0.0, 0.1],
        "rank_mem_bytes": [1, 2],
    }
    return StepLogged(**(values | changes))


def test_events_are_read_as_written_with_attempt_and_time(tmp_path):
    path = tmp_path / "journal.jsonl"
    writer = JournalWriter(path, attempt=3, clock=lambda: 12.5)
    written = [
        step_event(),
        WarningRaised(message="2 images left out"),
        CheckpointSaved(epoch=1, step=20, path="checkpoints/last.safetensors", size_bytes=7, seconds=0.1),
        AttemptEnded(outcome=AttemptEnded.STOPPED, epoch=1, step=20, detail="SIGTERM", requeued=True),
    ]
    for event in written:
        writer.write(event)
    read = read_events(path)
    assert [type(event) for event in read] == [type(event) for event in written]
    assert {(event.time, event.attempt) for event in read} == {(12.5, 3)}
    assert read[0].rank_step_s == [0.5, 0.6]
    assert read[3].requeued is True


def test_non_finite_value_becomes_null(tmp_path):
    path = tmp_path / "journal.jsonl"
    JournalWriter(path, attempt=1).write(step_event(losses={"box": math.nan, "obj": 0.2}, grad_norm=math.inf))
    line = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} in the journal"))
    assert line["losses"] == {"box": None, "obj": 0.2}
    assert line["grad_norm"] is None


@pytest.mark.parametrize(
    "rubbish",
    [
        b'{"event":"step","epoch":1',
        b"\x00\xff\xfe binary",
        b"[1, 2]\n",
        b'{"event":"from_the_future","time":1}\n',
        b'{"no":"event"}\n',
    ],
)
def test_reader_skips_lines_that_are_no_events(tmp_path, rubbish):
    """A crash may tear the last line, and a newer version may write what this one does not know."""
    path = tmp_path / "journal.jsonl"
    writer = JournalWriter(path, attempt=1)
    writer.write(step_event(step=1))
    with path.open("ab") as file:
        file.write(rubbish)
    writer.write(step_event(step=2))
    assert [event.step for event in read_events(path)] == [1, 2]


def test_reader_returns_each_event_once_and_only_complete_lines(tmp_path):
    path = tmp_path / "journal.jsonl"
    reader = JournalReader(path)
    assert reader.new_events() == []
    writer = JournalWriter(path, attempt=1)
    writer.write(step_event(step=1))
    assert [event.step for event in reader.new_events()] == [1]
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(whole[:20])
        file.flush()
        assert reader.new_events() == []
        file.write(whole[20:])
    assert [event.step for event in reader.new_events()] == [1]
    assert reader.new_events() == []


def test_run_directory_is_private_and_found_by_its_parts(tmp_path):
    run = RunDirectory(tmp_path / "runs" / "first")
    assert not run.exists
    run.create()
    run.create()
    run.spec.write_text("name: first\n")
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o700 for path in run.path.iterdir() if path.is_dir())
    assert [found.name for found in find_runs(tmp_path / "runs")] == ["first"]
    assert find_runs(tmp_path / "nowhere") == []
    assert run.rendezvous("12_3/evil", 2).parent == run.path / "rendezvous"


def test_run_directory_under_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be created.*(\n.*)*--set output="):
        RunDirectory(tmp_path / "file" / "run").create()


def test_first_failure_is_the_cause_and_not_its_echo(tmp_path):
    """When one rank dies the others fail a moment later, or even earlier by their clocks: people want the cause."""
    run = RunDirectory(tmp_path / "run")
    run.create()
    assert first_failure(run) is None

    def failure(time, rank, is_echo):
        return Failure(
            time=time,
            rank=rank,
            host="gpu01",
            job_id="7",
            kind="ValueError",
            message="bad",
            traceback="Traceback …\nValueError: bad\n",
            exit_code=1,
            is_echo=is_echo,
        )

    write_failure(run, failure(10.0, 0, is_echo=True))
    write_failure(run, failure(10.5, 3, is_echo=False))
    (run.failures / "torn.json").write_text("{")
    cause = first_failure(run)
    assert cause.rank == 3
    assert cause.text == "rank 3 on gpu01 failed: Traceback …\nValueError: bad"
    assert first_failure(run, since=11.0) is None


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (WarningRaised(message="2 images are left out"), "warning: 2 images are left out"),
        (
            AttemptEnded(outcome="stopped", epoch=1, step=20, detail="SIGTERM", requeued=True),
            "stopped by SIGTERM at step 20, queued again",
        ),
        (AttemptEnded(outcome="failed", epoch=0, step=0, detail="ValueError: bad"), "failed: ValueError: bad"),
        (AttemptEnded(outcome="finished", epoch=1, step=20), "finished at step 20"),
        (step_event(), None),
    ],
)
def test_main_events_have_a_line_in_the_log(event, line):
    assert event_line(event, epochs=9) == line


def test_lines_of_attempt_epoch_and_evaluation():
    ranks = ranks_on(*(f"n{rank}" for rank in range(6)))
    sizes = {"world_size": 6, "num_nodes": 6, "batch": 12, "epochs": 9, "num_images": 60}
    start = started(attempt=2, epoch=1, step=7, ranks=ranks, **sizes)
    expected = "attempt 2: 6 ranks on n0, n1, n2, n3 … (cpu, float32), 60 images, 5 steps of 12 an epoch, from step 7"
    assert event_line(start) == expected
    losses = {"box": 0.1, "obj": None, "cls": 0.03}
    ended = EpochEnded(epoch=1, step=10, losses=losses, lr=0.01, images_per_s=50.0, seconds=3.0)
    assert event_line(ended, epochs=9) == "epoch 2/9: box 0.100 obj - cls 0.030, 50.0 img/s, 3.0 s"
    values = {"metrics": Metrics(map50=0.625, map50_95=0.5), "images_per_s": 9.0, "seconds": 1.0}
    evaluated = Evaluated(epoch=1, step=10, num_images=8, is_best=True, classes=[], **values)
    assert event_line(evaluated) == "epoch 2: mAP50 0.625 mAP50-95 0.500 (best)"


def test_on_event_is_called_after_the_line_is_written(tmp_path):
    path = tmp_path / "journal.jsonl"
    written = []
    writer = JournalWriter(path, attempt=1, on_event=lambda event: written.append((event.step, len(read_events(path)))))
    writer.write(step_event(step=7))
    writer.write(step_event(step=8))
    assert written == [(7, 1), (8, 2)]


OLD_START = b'{"event":"attempt_started","time":1.0,"attempt":1,"format_version":1,"job_id":"7"}\n'


@pytest.mark.parametrize("before", [b"", b'{"event":"warning","time":1,"attempt":1,"message":"x"}\n', b"torn\n"])
def test_older_format_is_refused_in_one_sentence(tmp_path, before):
    path = tmp_path / "run" / "journal.jsonl"
    path.parent.mkdir()
    path.write_bytes(before + OLD_START)
    expected = re.escape(
        f"{path.parent}: written by an older version of hpc-yolo (journal format 1, this version reads "
    )
    with pytest.raises(RunError, match=expected):
        read_events(path)
    with pytest.raises(RunError, match=expected):
        require_format(path)


@pytest.mark.parametrize(
    "content", [None, b"", b"torn", OLD_START.replace(b':1,"job', b':99,"job'), OLD_START[:40] + b"\n"]
)
def test_current_newer_and_unknown_formats_are_read(tmp_path, content):
    path = tmp_path / "journal.jsonl"
    if content is not None:
        path.write_bytes(content)
    require_format(path)
    assert read_events(path) == []


def test_text_that_is_not_utf_8_is_replaced(tmp_path):
    """A file name of another encoding has lone surrogates in Python, which JSON cannot hold."""
    path = tmp_path / "journal.jsonl"
    JournalWriter(path, attempt=1).write(WarningRaised(message=b"caf\xe9.jpg".decode(errors="surrogateescape")))
    (event,) = read_events(path)
    assert event.message == "caf?.jpg"


def test_non_ascii_text_is_written_as_utf_8(tmp_path):
    path = tmp_path / "journal.jsonl"
    JournalWriter(path, attempt=1).write(WarningRaised(message="Übergröße 画像"))
    assert "Übergröße 画像" in path.read_text(encoding="utf-8")
    assert read_events(path)[0].message == "Übergröße 画像"


def test_tail_has_the_first_start_and_the_last_events(tmp_path):
    """Times of a long run are read from the end of its journal; what an attempt is, is at the beginning."""
    path = tmp_path / "journal.jsonl"
    writer = JournalWriter(path, attempt=1)
    writer.write(WarningRaised(message="before the start"))
    writer.write(started(batch=24))
    for step in range(100):
        writer.write(stepped(step=step + 1))
    first, events = read_tail(path, 2000)
    assert first.batch == 24
    assert 1 < len(events) < 100
    assert events[-1].step == 100
    assert [event.step for event in events] == list(range(101 - len(events), 101)), "the cut line is skipped"
    first, events = read_tail(path, 10**6)
    assert len(events) == 102
    path.write_text("no events\n")
    assert read_tail(path, 2000) == (None, [])
    with pytest.raises(FileNotFoundError):
        read_tail(tmp_path / "missing", 2000)
