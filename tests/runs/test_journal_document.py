"""docs/journal.md is the reference for scripts: it must match the types of events, and its examples must work."""

import shutil
import subprocess
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from hpc_yolo.runs.document import COMMON, MEANINGS, document
from hpc_yolo.runs.events import (
    AnyEvent,
    AttemptEnded,
    Cause,
    Evaluated,
    RankLocation,
    WarningRaised,
)
from hpc_yolo.runs.journal import JournalWriter
from hpc_yolo.runs.metrics import ClassMetrics, Metrics

PAGE = Path(__file__).parents[2] / "docs" / "journal.md"


def test_page_matches_the_types():
    assert PAGE.read_text() == document(), "python -m hpc_yolo.runs.document > docs/journal.md"


def test_every_meaning_belongs_to_a_field():
    fields = {
        field.name
        for kind in (*get_args(AnyEvent), RankLocation, Metrics, ClassMetrics)
        for field in msgspec.structs.fields(kind)
    }
    assert fields | {"precision_metric"} == set(MEANINGS)
    assert fields >= set(COMMON)


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed here")
def test_jq_examples_work_on_a_journal_with_a_torn_line(tmp_path):
    values = {"num_images": 8, "images_per_s": 9.0, "seconds": 1.0, "classes": []}
    journal = tmp_path / "journal.jsonl"
    writer = JournalWriter(journal, attempt=1)
    writer.write(WarningRaised(message="a tab\tand 'quotes'"))
    for epoch, (map50, is_best) in enumerate([(0.25, True), (0.5, True), (0.375, False)]):
        writer.write(Evaluated(epoch=epoch, step=epoch, metrics=Metrics(map50=map50), is_best=is_best, **values))
    with journal.open("a") as file:
        file.write('{"event":"eval')
    ended = AttemptEnded(outcome="stopped", epoch=3, step=60, cause=Cause.PREEMPTED, detail="SIGTERM")
    JournalWriter(journal, attempt=1).write(ended)
    example = PAGE.read_text().partition("```sh\n")[2].partition("```")[0]
    done = subprocess.run(["sh", "-eu", "-c", example], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2\t0.5", "1\tpreempted\t60\tSIGTERM"]
