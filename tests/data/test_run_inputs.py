"""Copies of the inputs of a run, made at submission: attempts read them, and changed inputs are reported."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import yaml

from hpc_yolo.core.errors import DataError, RunError, SpecError
from hpc_yolo.core.package_data import resource_directory
from hpc_yolo.data import run_inputs
from hpc_yolo.data.dataset_source import source_of_run
from hpc_yolo.data.run_inputs import changed_inputs, keep_inputs, read_inputs
from hpc_yolo.launch.prepare import prepare_run, require_same_training
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec import hyperparameters
from hpc_yolo.spec.load import load_resolved_spec, load_spec
from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.spec.schema import Spec

HYP = "# mine\nlr0: 0.01\nmomentum: 0.9\n"
DATA = "path: set\ntrain: a\nval: [b, c]\ntest: t\nnames: [cat, dog]\nnc: 2\n"
MODELS = resource_directory("configs") / "models"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory of a user with a spec, hyperparameters, a model config and a dataset."""
    directory = tmp_path / "home"
    for split in "abct":
        (directory / "set" / split).mkdir(parents=True)
    spec = {"name": "run", "model": "layers.yaml", "data": "data.yaml", "train": {"hyp": "hyp.yaml", "epochs": 1}}
    (directory / "spec.yaml").write_text(yaml.safe_dump(spec | {"output": str(tmp_path / "runs")}))
    (directory / "hyp.yaml").write_text(HYP)
    (directory / "data.yaml").write_text(DATA)
    (directory / "layers.yaml").write_text((MODELS / "yolov5n.yaml").read_text())
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def run(home: Path, tmp_path: Path) -> RunDirectory:
    """Return the run of that spec, after its submission."""
    run = RunDirectory(tmp_path / "runs" / "run")
    prepare_run(run, load_spec(home / "spec.yaml"))
    return run


def replace(name: str, before: str, after: str) -> Callable[[Path], None]:
    def edit(home: Path) -> None:
        text = (home / name).read_text()
        assert before in text
        (home / name).write_text(text.replace(before, after))

    return edit


def rewrite(name: str, text: str) -> Callable[[Path], None]:
    def edit(home: Path) -> None:
        (home / name).write_text(text)

    return edit


def remove(name: str) -> Callable[[Path], None]:
    return lambda home: (home / name).unlink()


def move_dataset(home: Path) -> None:
    (home / "set").rename(home / "elsewhere")
    replace("data.yaml", "path: set", "path: elsewhere")(home)


# An edit between two submissions and its messages; none if it has no effect on training.
EDITS: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "hyperparameter changed": (
        replace("hyp.yaml", "lr0: 0.01", "lr0: 0.5"),
        ["hyperparameter lr0 in {home}/hyp.yaml: 0.01 -> 0.5"],
    ),
    "hyperparameter added": (
        rewrite("hyp.yaml", HYP + "mixup: 0.1\n"),
        ["hyperparameter mixup in {home}/hyp.yaml: not set -> 0.1"],
    ),
    "hyperparameter removed": (
        replace("hyp.yaml", "momentum: 0.9\n", ""),
        ["hyperparameter momentum in {home}/hyp.yaml: 0.9 -> not set"],
    ),
    "hyperparameters in other notation": (rewrite("hyp.yaml", "momentum: 9.0e-1\nlr0: 1e-2 # as before\n"), []),
    "hyperparameters file removed": (remove("hyp.yaml"), []),
    "layer of model": (
        replace("layers.yaml", "[-1, 1, SPPF, [1024, 5]]", "[-1, 1, SPPF, [1024, 7]]"),
        ["model backbone[9] in {home}/layers.yaml: [-1, 1, 'SPPF', [1024, 5]] -> [-1, 1, 'SPPF', [1024, 7]]"],
    ),
    "multiple of model": (
        replace("layers.yaml", "depth_multiple: 0.33", "depth_multiple: 0.67"),
        ["model depth_multiple in {home}/layers.yaml: 0.33 -> 0.67"],
    ),
    "comment in model config": (lambda home: replace("layers.yaml", "backbone:", "backbone:  # mine")(home), []),
    "model config removed": (remove("layers.yaml"), []),
    "class renamed": (replace("data.yaml", "dog", "fox"), ["data names[1] in {home}/data.yaml: dog -> fox"]),
    "class added": (
        replace("data.yaml", "[cat, dog]\nnc: 2", "[cat, dog, fox]"),
        ["data names[2] in {home}/data.yaml: not set -> fox"],
    ),
    "classes reordered": (
        replace("data.yaml", "[cat, dog]", "[dog, cat]"),
        ["data names[0] in {home}/data.yaml: cat -> dog", "data names[1] in {home}/data.yaml: dog -> cat"],
    ),
    "classes in other notation": (replace("data.yaml", "[cat, dog]", "{{0: 'cat', 1: dog}}".format()), []),
    "training images": (
        replace("data.yaml", "train: a", "train: c"),
        ["data train[0] in {home}/data.yaml: {home}/set/a -> {home}/set/c"],
    ),
    "validation images": (
        replace("data.yaml", "[b, c]", "[b]"),
        ["data val[1] in {home}/data.yaml: {home}/set/c -> not set"],
    ),
    "keypoints": (rewrite("data.yaml", DATA + "kpt_shape: [17, 3]\n"), ["data kpt_shape[0]", "data kpt_shape[1]"]),
    "dataset moved": (move_dataset, ["{home}/set/a -> {home}/elsewhere/a"]),
    "test images": (replace("data.yaml", "test: t", "test: a"), []),
    "unused fields": (rewrite("data.yaml", DATA + "download: https://example.org\nauthor: me\n"), []),
    "paths in other notation": (replace("data.yaml", "train: a", "train: ./a/"), []),
    "dataset YAML removed": (remove("data.yaml"), []),
}


@pytest.mark.parametrize(("edit", "expected"), EDITS.values(), ids=EDITS.keys())
def test_edited_input_is_reported_at_next_submission(
    home: Path, run: RunDirectory, monkeypatch: pytest.MonkeyPatch, edit: Callable[[Path], None], expected: list[str]
) -> None:
    monkeypatch.setattr(run_inputs, "MAX_SHOWN", 1000)  # directories of tests have long names
    spec = load_resolved_spec(run.spec)
    before = read_inputs(run, spec)
    edit(home)
    if expected:
        with pytest.raises(RunError) as caught:
            require_same_training(run, spec)
        for clause in expected:
            assert clause.format(home=home) in caught.value.message
        assert str(run.inputs) in str(caught.value.hint) and "--set name=NAME" in str(caught.value.hint)
    else:
        require_same_training(run, spec)
    if (home / "set").is_dir():
        assert read_inputs(run, spec) == before, "an attempt reads the copies"


def test_long_values_are_shown_at_first_difference(home: Path, run: RunDirectory) -> None:
    """Both values have the same first 80 characters of a path."""
    long = "/".join(["a", "directory", "with", "a", "long", "name"] * 8)
    for end in ("before", "after"):
        (home / long / end).mkdir(parents=True, exist_ok=True)
    (home / "data.yaml").write_text(DATA.replace("train: a", f"train: ../{long}/before"))
    prepare_run(RunDirectory(run.path.with_name("long")), load_spec(home / "spec.yaml"))
    (home / "data.yaml").write_text(DATA.replace("train: a", f"train: ../{long}/after"))
    with pytest.raises(RunError) as caught:
        require_same_training(RunDirectory(run.path.with_name("long")), load_resolved_spec(run.spec))
    assert re.search(r": … \S{70,76}/before -> … \S{70,76}/after\b", caught.value.message)


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [("hyp.yaml", "lr0: much\n", SpecError), ("layers.yaml", "[", SpecError), ("data.yaml", "names: [", DataError)],
)
def test_attempts_do_not_read_damaged_file(
    home: Path, run: RunDirectory, name: str, text: str, kind: type[Exception]
) -> None:
    before = read_inputs(run, load_resolved_spec(run.spec))
    (home / name).write_text(text)
    spec = load_resolved_spec(run.spec)
    assert read_inputs(run, spec) == before
    with pytest.raises(kind):
        require_same_training(run, spec)


def test_list_of_many_changes_is_shortened(home: Path, run: RunDirectory) -> None:
    (home / "hyp.yaml").write_text("".join(f"{name}: 0.5\n" for name in ("lrf", "box", "cls", "obj", "mixup", "shear")))
    with pytest.raises(RunError, match=r"; and 3 more\)"):
        require_same_training(run, load_resolved_spec(run.spec))


def test_copies_have_defaults_and_overrides(home: Path, tmp_path: Path) -> None:
    spec = load_spec(home / "spec.yaml")
    train = msgspec.structs.replace(spec.train, hyp_overrides={"mixup": 0.25, "lr0": 1e-5})
    spec = msgspec.structs.replace(spec, train=train)
    run = RunDirectory(tmp_path / "runs" / "run")
    prepare_run(run, spec)
    assert read_inputs(run, spec).hyperparameters == Hyperparameters(lr0=1e-5, momentum=0.9, mixup=0.25)
    assert set(yaml.safe_load((run.inputs / "hyperparameters.yaml").read_text())) == {
        field.name for field in msgspec.structs.fields(Hyperparameters)
    }


def test_relative_paths_are_resolved_as_at_submission(
    home: Path, run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = read_inputs(run, load_resolved_spec(run.spec)).dataset
    assert (dataset.train, dataset.val) == ((home / "set" / "a",), (home / "set" / "b", home / "set" / "c"))
    assert dataset.names == ("cat", "dog")
    assert source_of_run(run, load_resolved_spec(run.spec).data) == run.inputs / "dataset.yaml"


def shipped_spec(home: Path) -> Spec:
    spec = yaml.safe_load((home / "spec.yaml").read_text())
    path = home / "shipped.yaml"
    path.write_text(yaml.safe_dump(spec | {"model": "yolov5n", "train": {"hyp": "scratch-low"}}))
    return load_spec(path)


def test_changed_default_of_later_version_does_not_change_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither shipped sets and model configs, nor fields missing in a file: a run continues with its first values."""
    specs = {"own": load_spec(home / "spec.yaml"), "shipped": shipped_spec(home)}
    runs = {name: RunDirectory(tmp_path / "runs" / name) for name in specs}
    for name, spec in specs.items():
        prepare_run(runs[name], spec)
    before = {name: read_inputs(runs[name], spec) for name, spec in specs.items()}
    later = msgspec.defstruct(
        "Hyperparameters",
        [(field.name, field.type, 0.125) for field in msgspec.structs.fields(Hyperparameters)],
        bases=(Hyperparameters,),
        frozen=True,
        kw_only=True,
    )
    monkeypatch.setattr(hyperparameters, "Hyperparameters", later)
    monkeypatch.setattr(run_inputs, "load_config", lambda path: yaml.safe_load(Path(path).read_text()))
    for name, spec in specs.items():
        require_same_training(runs[name], spec)
        now = read_inputs(runs[name], spec)
        assert msgspec.to_builtins(now.hyperparameters) == msgspec.to_builtins(before[name].hyperparameters)
        assert (now.model, now.digest) == (before[name].model, before[name].digest)


def test_hyperparameter_of_later_version_has_default(home: Path, run: RunDirectory) -> None:
    """The copy of an old run does not have the field; its checkpoints must still load."""
    spec = load_resolved_spec(run.spec)
    before = read_inputs(run, spec)
    path = run.inputs / "hyperparameters.yaml"
    path.write_text(path.read_text().replace("copy_paste: 0.0\n", ""))
    now = read_inputs(run, spec)
    assert now.hyperparameters == before.hyperparameters
    assert now.digest != before.digest, "the copy itself was edited"


def test_resume_of_run_without_copies_creates_them(home: Path, run: RunDirectory) -> None:
    for path in run.inputs.iterdir():
        path.unlink()
    run.inputs.rmdir()
    spec = load_resolved_spec(run.spec)
    assert changed_inputs(run, spec) == []
    assert source_of_run(run, spec.data) == home / "data.yaml"
    keep_inputs(run, spec)
    assert read_inputs(run, spec).hyperparameters.momentum == 0.9


def test_copies_are_written_once(home: Path, run: RunDirectory) -> None:
    (home / "hyp.yaml").write_text("lr0: 0.5\n")
    keep_inputs(run, load_resolved_spec(run.spec))
    assert read_inputs(run, load_resolved_spec(run.spec)).hyperparameters.lr0 == 0.01


@pytest.mark.parametrize("name", ["hyperparameters.yaml", "model.yaml", "dataset.yaml"])
@pytest.mark.parametrize("text", [None, "[", "\x00"])
def test_damaged_copy_error_has_its_directory(run: RunDirectory, name: str, text: str | None) -> None:
    path = run.inputs / name
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises((RunError, DataError)) as caught:
        read_inputs(run, load_resolved_spec(run.spec))
    assert str(run.inputs) in str(caught.value)


def test_changed_copy_changes_digest(run: RunDirectory) -> None:
    spec = load_resolved_spec(run.spec)
    digests = {read_inputs(run, spec).digest}
    for name, before, after in (
        ("hyperparameters.yaml", "lr0: 0.01", "lr0: 0.02"),
        ("model.yaml", "width_multiple: 0.25", "width_multiple: 0.5"),
        ("dataset.yaml", "- dog", "- fox"),
    ):
        path = run.inputs / name
        assert before in path.read_text()
        path.write_text(path.read_text().replace(before, after))
        digests.add(read_inputs(run, spec).digest)
    assert len(digests) == 4


@pytest.mark.parametrize("name", ["dataset.yaml", "notes.txt"])
def test_inputs_directory_of_user_is_refused(home: Path, tmp_path: Path, name: str) -> None:
    run = RunDirectory(tmp_path / "runs" / "run")
    run.inputs.mkdir(parents=True)
    (run.inputs / name).write_text(DATA)
    with pytest.raises(RunError, match="was not made for a run"):
        prepare_run(run, load_spec(home / "spec.yaml"))
    assert (run.inputs / name).read_text() == DATA
    assert not run.exists


def test_unreadable_file_creates_no_run(home: Path, tmp_path: Path) -> None:
    spec = load_spec(home / "spec.yaml")
    (home / "data.yaml").unlink()
    run = RunDirectory(tmp_path / "runs" / "run")
    with pytest.raises(DataError):
        prepare_run(run, spec)
    assert not run.path.exists()


@pytest.mark.parametrize("name", ["no", "0x10", "~", "a: b", "'", "Ä", "猫", "\ud800", " "])
def test_class_names_are_kept_unchanged(home: Path, tmp_path: Path, name: str) -> None:
    (home / "data.yaml").write_text(yaml.safe_dump({"path": "set", "train": "a", "val": "b", "names": [name, "x"]}))
    spec = load_spec(home / "spec.yaml")
    run = RunDirectory(tmp_path / "runs" / "run")
    prepare_run(run, spec)
    assert read_inputs(run, spec).dataset.names == (name, "x")
    assert changed_inputs(run, spec) == []
