"""One file that says everything of a run, or of several: whole without a network, and whatever is missing."""

import json
import os

import msgspec
import pytest
from click.testing import CliRunner
from html_page import Page
from status_runs import END, EVALUATED, START, STEP, append_events, make_run

from hpc_yolo.cli.main import cli
from hpc_yolo.core.errors import RunError
from hpc_yolo.core.files import write_struct
from hpc_yolo.plots.labels import LabelStatistics, SplitStatistics
from hpc_yolo.plots.results import ClassResults, Results
from hpc_yolo.runs.metrics import Metrics
from hpc_yolo.runs.stages import StageRecord, claim_stage

HOSTILE = "<script>alert(1)</script>"
METRICS = {"precision": 0.1, "recall": 0.2, "map50": 0.3, "map50_95": 0.4321}
CLASSES = [{"name": "cat & <b>dog", "num_labels": 3, "metrics": METRICS}]


def make_report(tmp_path, *runs) -> Page:
    path = tmp_path / "made.html"
    result = CliRunner().invoke(cli, ["report", *(str(run.path) for run in runs), "-o", str(path)])
    if result.exception is not None:
        raise result.exception
    assert str(path) in result.output
    text = path.read_text()
    assert HOSTILE not in text
    return Page(text)


@pytest.fixture
def full_run(tmp_path):
    """Two attempts, evaluated, with everything that training leaves."""
    run = make_run(tmp_path / "runs", "full", time=10.0)
    run.spec.write_text(f"name: full\ntrain: {{epochs: 4}}\nnote: {HOSTILE}\n")
    again = {"attempt": 2, "time": 70.0}
    append_events(
        run, START, {**STEP, "time": 40.0}, {**EVALUATED, "time": 50.0, "classes": CLASSES}, {**END, "time": 52.0}
    )
    append_events(
        run, {**START, **again, "step": 20}, {"event": "warning", **again, "message": HOSTILE}, {**STEP, **again}
    )
    run.origin.write_text('{"command": "hpc-yolo submit <x>"}')
    run.packages.write_text("torch==2.9\nrich==14\n")
    stage = StageRecord(
        stage="val", end=2, number=1, state="failed", detail=HOSTILE, began=80.0, ended=95.0, job_id="8"
    )
    claim_stage(run, stage)
    run.results.mkdir()
    run.mosaics.write_bytes(b"JPEG")
    curve = {"precision": [0.5, 1.0], "recall": [1.0, 0.0], "precision_at_recall": [1.0, 0.5]}
    metrics = Metrics(map50=0.5, map50_95=0.25)
    rows = [ClassResults(name=name, num_labels=2, metrics=metrics, **curve) for name in ("cat", HOSTILE)]
    found = Results(
        epoch=0,
        step=100,
        num_images=8,
        names=["cat", HOSTILE],
        classes=rows,
        confusions=[(0, 1, 7), (1, 1, 3)],
        metrics=Metrics(precision=0.1, recall=0.2, map50=0.3, map50_95=0.4),
    )
    write_struct(run.evaluation, found)
    split = SplitStatistics(
        num_images=8, num_backgrounds=1, num_corrupt=2, class_counts=[3, 4], num_small=5, num_medium=1, num_large=1,
        objects_per_image=[1, 7], centres=[[0, 1], [2, 3]], sides=[[1, 0], [0, 1]],
    )  # fmt: skip
    labels = LabelStatistics(imgsz=640, names=["cat", HOSTILE], train=split, val=split)
    run.labels.write_bytes(msgspec.json.encode(labels))
    return run


def test_every_section_has_the_values_of_the_run(tmp_path, full_run):
    sections = make_report(tmp_path, full_run).sections
    for section, texts in {
        "summary": ["queued again", "0.400", "0.600", "50.0"],
        "curves": ["Box loss", "mAP50-95", "Learning rate", "another attempt"],
        "results": ["Precision over recall", "F1 over confidence", "cat & <b>dog", "0.432"],
        "confusion": ["background", "0.70", "0.30", HOSTILE],
        "images": ["Training mosaics"],
        "labels": ["Centres of objects", "640"],
        "time": ["queue", "step", "lost", "total", "100%"],
        "attempts": ["2 on gpu0, gpu1", "no end in the journal", "SIGTERM"],
        "stages": ["val", "2, 1", "8", "15 s", "failed", HOSTILE],
        "warnings": [HOSTILE],
        "spec": ["epochs: 4"],
        "environment": ["hpc-yolo submit <x>", "torch==2.9", "2 packages"],
    }.items():
        for text in texts if section != "summary" else texts[1:]:
            assert text in sections[section], section


def test_several_runs_share_charts_and_list_differences(tmp_path, full_run):
    other = make_run(tmp_path / "runs", "other")
    other.spec.write_text("name: other\ntrain: {epochs: 8}\n")
    append_events(other, START, STEP)
    sections = make_report(tmp_path, full_run, other).sections
    assert "train.epochs 4 8" in " ".join(sections["spec-differences"].split())
    assert "full" in sections["curves"] and "other" in sections["curves"]
    assert "another attempt" not in sections["curves"], "whose?"


@pytest.mark.parametrize(
    ("journal", "spec", "expected"),
    [
        (b"", b"", "not started"),
        (b"\x00\xff\n{torn", b"\xff{: no yaml", "2 lines of the journal"),
        (b'{"event": "of another version", "time": 1, "attempt": 1}\n', b"[]", "1 line of the journal"),
    ],
    ids=["nothing yet", "rubbish", "newer"],
)
def test_missing_or_broken_file_leaves_the_rest(tmp_path, journal, spec, expected):
    run = make_run(tmp_path, "first", executor=None)
    run.journal.write_bytes(journal)
    run.spec.write_bytes(spec)
    assert expected in " ".join(make_report(tmp_path, run).sections.values())


def test_name_of_a_directory_that_is_no_text(tmp_path):
    run = make_run(tmp_path, os.fsdecode(b"caf\xe9"))
    append_events(run, START, STEP)
    run.origin.write_text(json.dumps({"directory": str(run.path)}))
    page = tmp_path / "made.html"
    assert CliRunner().invoke(cli, ["report", str(run.path), "-o", str(page)], catch_exceptions=False).exit_code == 0
    assert "caf\\udce9" in page.read_text()


def test_report_is_written_to_the_run_directory_and_unknown_run_names_the_nearest(tmp_path, full_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli, ["report", "full"]).exception is None
    assert full_run.report.read_text().startswith("<!doctype html>")
    assert full_run.report.stat().st_mode & 0o077 == 0
    refusal = CliRunner().invoke(cli, ["report", "fll"]).exception
    assert isinstance(refusal, RunError) and refusal.hint == "did you mean full?"
    nowhere = CliRunner().invoke(cli, ["report", "full", "-o", str(tmp_path / "no" / "where.html")]).exception
    assert isinstance(nowhere, RunError) and "cannot be written" in nowhere.message
