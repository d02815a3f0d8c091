"""Patterns in the name of a run."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from hpc_yolo.core.errors import SpecError
from hpc_yolo.launch.run_names import require_filled_name, with_filled_name
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.load import Override, check_spec
from hpc_yolo.spec.schema import Spec

NOW = datetime(2026, 1, 31, 23, 59, 8)


@pytest.mark.parametrize(
    ("name", "model", "existing", "expected"),
    [
        ("plain", "yolov5n", [], "plain"),
        ("{model}-{date}", "yolov5n", [], "yolov5n-2026-01-31"),
        ("{model}", "/home/me/my layers+.yaml", [], "my-layers-"),
        ("{date}_{time}", "yolov5n", [], "2026-01-31_235908"),
        ("{user}.{n}", "yolov5n", [], "me.1"),
        ("run-{n}", "yolov5n", ["run-1", "run-3", "run-x", "run-7b", "other-9"], "run-4"),
        ("run-{n}{n}", "yolov5n", [], "run-1"),
        ("{n}.b", "yolov5n", ["9.b", "10.b", "11xb"], "11.b"),
    ],
)
def test_patterns_are_filled_in_at_submission(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    model: str,
    existing: list[str],
    expected: str,
) -> None:
    monkeypatch.setenv("LOGNAME", "me")
    for directory in existing:
        (tmp_path / directory).mkdir()
    spec = with_filled_name(Spec(name=name, model=model, data=DataSpec(path="d"), output=str(tmp_path)), NOW)
    assert spec.name == expected
    require_filled_name(spec)


def test_name_that_becomes_too_long_is_refused() -> None:
    with pytest.raises(SpecError, match="has 106 characters"):
        with_filled_name(Spec(name="x" * 96 + "{date}", model="yolov5n", data=DataSpec(path="d")), NOW)


def test_tasks_refuse_name_with_patterns() -> None:
    with pytest.raises(SpecError, match="filled in by hpc-yolo submit"):
        require_filled_name(Spec(name="run-{n}", model="yolov5n", data=DataSpec(path="d")))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{job_id}", "name: {job_id}: the run directory exists before the job, and every job of the run uses it"),
        ("a-{SLURM_JOB_ID}", "allowed: {n} or {date}-{time}: each submission is then a new run"),
        ("a-{dat}", "name: there is no pattern {dat}\n  allowed: {model} (name of the model or its weights), {date}"),
        ("a-{}", "there is no pattern {}"),
        ("a-{n", "a brace without its partner"),
        ("a}", "a brace without its partner"),
        ("a b", "1 to 100 letters, digits, - _ . without - or . in front, and patterns such as {n}"),
    ],
)
def test_other_patterns_are_a_problem_of_the_name(name: str, message: str) -> None:
    values = {"name": name, "model": "yolov5n", "data": "d"}
    _, problems = check_spec(None, [Override(field, f'"{value}"', field) for field, value in values.items()])
    assert [message in str(problem) for problem in problems] == [True]
