"""Variables in the paths of a spec: expanded at submission where all machines read the path, kept in `data`."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_yolo.spec.load import Override, check_spec, dump_spec, load_resolved_spec, load_spec


@pytest.fixture(autouse=True)
def variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HOME": "/home/me", "SCRATCH": "/scratch/me", "SLURM_TMPDIR": "/tmp/1", "TMPDIR": "/t"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NOPE", raising=False)
    monkeypatch.chdir(tmp_path)


def checked(field: str, text: str, **more: str) -> tuple[object, list[str]]:
    """Return (the value of the field, the problems) of a spec in which `field` is `text`."""
    values = {"name": "a", "model": "yolov5n", "data": "d.yaml", field: text} | more
    spec, problems = check_spec(None, [Override(name, f'"{value}"', name) for name, value in values.items()])
    value: object = spec
    for part in field.split("."):
        value = getattr(value, part)
    return value, [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("output", "$SCRATCH/runs", "/scratch/me/runs"),
        ("output", "~/runs", "/home/me/runs"),
        ("output", "${SCRATCH}_2/$$", "/scratch/me_2/$$"),
        ("weights", "$HOME/yolov5s.pt", "/home/me/yolov5s.pt"),
        ("data.path", "$SLURM_TMPDIR/coco.yaml", "$SLURM_TMPDIR/coco.yaml"),
        ("data.path", "/disk/$NOPE/coco.yaml", "/disk/$NOPE/coco.yaml"),
        ("data.path", "~/coco.yaml", "~/coco.yaml"),
    ],
)
def test_variables_are_expanded_at_submission_but_in_data(field: str, text: str, value: str) -> None:
    assert checked(field, text) == (value, [])


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("output", "$SLURM_TMPDIR/runs", "SLURM_TMPDIR differs between this machine, the jobs of the run and"),
        ("output", "$TMPDIR/runs", "allowed: a directory that the nodes see too, such as $HOME/runs"),
        ("output", "$NOPE/runs", "output: '$NOPE/runs': the variable NOPE is not set on this machine"),
        ("weights", "$SLURM_TMPDIR/a.pt", "allowed: a file that the nodes see too"),
        ("train.hyp", "$NOPE/hyp.yaml", "train.hyp: '$NOPE/hyp.yaml': the variable NOPE is not set"),
        ("model", "$NOPE/m.yaml", "model: '$NOPE/m.yaml': the variable NOPE is not set"),
        ("data", "sets/$NOPE.yaml", "data.path: 'sets/$NOPE.yaml' depends on a variable and on the working directory"),
    ],
)
def test_unusable_variable_is_a_problem_of_its_field(field: str, text: str, message: str) -> None:
    _, problems = checked(field, text)
    assert message in problems[0]


def test_paths_of_stages_are_expanded(tmp_path: Path) -> None:
    stages = "[{val: {weights: $HOME/a.pt}}, {predict: {source: [$SCRATCH/images, '0'], weights: last}}, {report: {}}]"
    (tmp_path / "spec.yaml").write_text(f"name: a\nmodel: yolov5n\ndata: d.yaml\nthen: {stages}\n")
    val, predict, _ = load_spec(tmp_path / "spec.yaml").then
    assert val.val is not None and val.val.weights == "/home/me/a.pt"
    assert predict.predict is not None
    assert (predict.predict.sources, predict.predict.weights) == (["/scratch/me/images", "0"], "last")
    (tmp_path / "spec.yaml").write_text("name: a\nmodel: yolov5n\ndata: d.yaml\nthen: [{val: {weights: $NOPE/a.pt}}]\n")
    _, (problem,) = check_spec(tmp_path / "spec.yaml")
    assert str(problem).startswith(
        f"{tmp_path}/spec.yaml:4:24: then[0].val.weights: '$NOPE/a.pt': the variable NOPE is"
    )


def test_local_run_may_write_to_directory_for_temporary_files() -> None:
    assert checked("output", "$TMPDIR/runs", **{"cluster.executor": "local"}) == ("/t/runs", [])


def test_existing_path_with_dollar_sign_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "a$HOME"
    directory.mkdir()
    monkeypatch.chdir(directory)
    (directory / "d.yaml").touch()
    (directory / "runs").mkdir()
    (directory / "spec.yaml").write_text("name: a\nmodel: yolov5n\ndata: d.yaml\noutput: runs\n")
    spec = load_spec(directory / "spec.yaml")
    assert (spec.data.path, spec.output) == (str(directory / "d.yaml"), str(directory / "runs"))
    (directory / "resolved.yaml").write_text(dump_spec(spec))
    assert load_resolved_spec(directory / "resolved.yaml") == spec
