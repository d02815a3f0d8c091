"""What a run learns from is kept when it is submitted: attempts read the copies, and changed files are named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import yaml

from hpc_yolo import inputs
from hpc_yolo.errors import DataError, RunError, SpecError
from hpc_yolo.inputs import changed_inputs, dataset_yaml, keep_inputs, read_inputs
from hpc_yolo.resources import resource_folder
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec import hyperparameters
from hpc_yolo.spec.load import load_resolved_spec, load_spec
from hpc_yolo.spec.schema import Hyperparameters, Spec
from hpc_yolo.submit.prepare import prepare_run, require_same_training

HYP = "# mine\nlr0: 0.01\nmomentum: 0.9\n"
DATA = "path: set\ntrain: a\nval: [b, c]\ntest: t\nnames: [cat, dog]\nnc: 2\n"
MODELS = resource_folder("configs") / "models"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's directory with a spec, hyperparameters, rows of a network and a dataset."""
    folder = tmp_path / "home"
    for split in "abct":
        (folder / "set" / split).mkdir(parents=True)
    spec = {"name": "run", "model": "rows.yaml", "data": "data.yaml", "train": {"hyp": "hyp.yaml", "epochs": 1}}
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec | {"output": str(tmp_path / "runs")}))
    (folder / "hyp.yaml").write_text(HYP)
    (folder / "data.yaml").write_text(DATA)
    (folder / "rows.yaml").write_text((MODELS / "yolov5n.yaml").read_text())
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(home: Path, tmp_path: Path) -> RunDirectory:
    """The run of that spec, submitted."""
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
    return lambda home: (home / name).write_text(text) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda home: (home / name).unlink()


def move_dataset(home: Path) -> None:
    (home / "set").rename(home / "elsewhere")
    replace("data.yaml", "path: set", "path: elsewhere")(home)


# An edit between two submissions, and what is said of it; nothing where it changes nothing that is learned.
EDITS: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "a hyperparameter": (
        replace("hyp.yaml", "lr0: 0.01", "lr0: 0.5"),
        ["hyperparameter lr0 in {home}/hyp.yaml: 0.01 -> 0.5"],
    ),
    "a hyperparameter more": (
        rewrite("hyp.yaml", HYP + "mixup: 0.1\n"),
        ["hyperparameter mixup in {home}/hyp.yaml: not there -> 0.1"],
    ),
    "a hyperparameter less": (
        replace("hyp.yaml", "momentum: 0.9\n", ""),
        ["hyperparameter momentum in {home}/hyp.yaml: 0.9 -> not there"],
    ),
    "hyperparameters written otherwise": (rewrite("hyp.yaml", "momentum: 9.0e-1\nlr0: 1e-2 # as before\n"), []),
    "hyperparameters are gone": (remove("hyp.yaml"), []),
    "a row of the network": (
        replace("rows.yaml", "[-1, 1, SPPF, [1024, 5]]", "[-1, 1, SPPF, [1024, 7]]"),
        ["model backbone[9] in {home}/rows.yaml: [-1, 1, 'SPPF', [1024, 5]] -> [-1, 1, 'SPPF', [1024, 7]]"],
    ),
    "a multiple of the network": (
        replace("rows.yaml", "depth_multiple: 0.33", "depth_multiple: 0.67"),
        ["model depth_multiple in {home}/rows.yaml: 0.33 -> 0.67"],
    ),
    "a comment in the network": (lambda home: replace("rows.yaml", "backbone:", "backbone:  # mine")(home), []),
    "the network is gone": (remove("rows.yaml"), []),
    "a class": (replace("data.yaml", "dog", "fox"), ["data names[1] in {home}/data.yaml: dog -> fox"]),
    "a class more": (
        replace("data.yaml", "[cat, dog]\nnc: 2", "[cat, dog, fox]"),
        ["data names[2] in {home}/data.yaml: not there -> fox"],
    ),
    "classes in another order": (
        replace("data.yaml", "[cat, dog]", "[dog, cat]"),
        ["data names[0] in {home}/data.yaml: cat -> dog", "data names[1] in {home}/data.yaml: dog -> cat"],
    ),
    "classes written otherwise": (replace("data.yaml", "[cat, dog]", "{{0: 'cat', 1: dog}}".format()), []),
    "training images": (
        replace("data.yaml", "train: a", "train: c"),
        ["data train[0] in {home}/data.yaml: {home}/set/a -> {home}/set/c"],
    ),
    "validation images": (
        replace("data.yaml", "[b, c]", "[b]"),
        ["data val[1] in {home}/data.yaml: {home}/set/c -> not there"],
    ),
    "keypoints": (rewrite("data.yaml", DATA + "kpt_shape: [17, 3]\n"), ["data kpt_shape[0]", "data kpt_shape[1]"]),
    "the dataset lies elsewhere": (move_dataset, ["{home}/set/a -> {home}/elsewhere/a"]),
    "images of the test split": (replace("data.yaml", "test: t", "test: a"), []),
    "what is not read": (rewrite("data.yaml", DATA + "download: https://example.org\nauthor: me\n"), []),
    "the same paths written otherwise": (replace("data.yaml", "train: a", "train: ./a/"), []),
    "the dataset YAML is gone": (remove("data.yaml"), []),
}


@pytest.mark.parametrize(("edit", "expected"), EDITS.values(), ids=EDITS.keys())
def test_an_edit_between_two_submissions_is_named(
    home: Path, run: RunDirectory, monkeypatch: pytest.MonkeyPatch, edit: Callable[[Path], None], expected: list[str]
) -> None:
    monkeypatch.setattr(inputs, "MAX_SHOWN", 1000)  # a directory of a test has a long name
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
        assert read_inputs(run, spec) == before, "an attempt reads what was kept"


def test_two_long_values_are_shown_where_they_differ(home: Path, run: RunDirectory) -> None:
    """Both began with the same 80 letters of a path, and nothing else was shown of them."""
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
    [("hyp.yaml", "lr0: much\n", SpecError), ("rows.yaml", "[", SpecError), ("data.yaml", "names: [", DataError)],
)
def test_attempts_do_not_read_a_file_that_was_spoiled(
    home: Path, run: RunDirectory, name: str, text: str, kind: type[Exception]
) -> None:
    before = read_inputs(run, load_resolved_spec(run.spec))
    (home / name).write_text(text)
    spec = load_resolved_spec(run.spec)
    assert read_inputs(run, spec) == before
    with pytest.raises(kind):
        require_same_training(run, spec)


def test_many_changes_are_not_all_listed(home: Path, run: RunDirectory) -> None:
    (home / "hyp.yaml").write_text("".join(f"{name}: 0.5\n" for name in ("lrf", "box", "cls", "obj", "mixup", "shear")))
    with pytest.raises(RunError, match=r"; and 3 more\)"):
        require_same_training(run, load_resolved_spec(run.spec))


def test_copies_hold_defaults_and_overrides(home: Path, tmp_path: Path) -> None:
    spec = load_spec(home / "spec.yaml")
    train = msgspec.structs.replace(spec.train, hyp_overrides={"mixup": 0.25, "lr0": 1e-5})
    spec = msgspec.structs.replace(spec, train=train)
    run = RunDirectory(tmp_path / "runs" / "run")
    prepare_run(run, spec)
    assert read_inputs(run, spec).hyperparameters == Hyperparameters(lr0=1e-5, momentum=0.9, mixup=0.25)
    assert set(yaml.safe_load((run.inputs / "hyperparameters.yaml").read_text())) == {
        field.name for field in msgspec.structs.fields(Hyperparameters)
    }


def test_relative_paths_mean_what_they_meant(
    home: Path, run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = read_inputs(run, load_resolved_spec(run.spec)).dataset
    assert (dataset.train, dataset.val) == ((home / "set" / "a",), (home / "set" / "b", home / "set" / "c"))
    assert dataset.names == ("cat", "dog")
    assert dataset_yaml(run, load_resolved_spec(run.spec)) == run.inputs / "dataset.yaml"


def shipped_spec(home: Path) -> Spec:
    spec = yaml.safe_load((home / "spec.yaml").read_text())
    path = home / "shipped.yaml"
    path.write_text(yaml.safe_dump(spec | {"model": "yolov5n", "train": {"hyp": "scratch-low"}}))
    return load_spec(path)


def test_another_default_of_a_later_version_does_not_change_a_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the sets and rows that come with the package, nor what a file leaves out; a run goes on as it began."""
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
    monkeypatch.setattr(inputs, "load_config", lambda path: yaml.safe_load(Path(path).read_text()))
    for name, spec in specs.items():
        require_same_training(runs[name], spec)
        now = read_inputs(runs[name], spec)
        assert msgspec.to_builtins(now.hyperparameters) == msgspec.to_builtins(before[name].hyperparameters)
        assert (now.model, now.digest) == (before[name].model, before[name].digest)


def test_a_hyperparameter_of_a_later_version_is_at_its_default(home: Path, run: RunDirectory) -> None:
    """The copy of an old run has not heard of it; that must not make its checkpoints unfit."""
    spec = load_resolved_spec(run.spec)
    before = read_inputs(run, spec)
    path = run.inputs / "hyperparameters.yaml"
    path.write_text(path.read_text().replace("copy_paste: 0.0\n", ""))
    now = read_inputs(run, spec)
    assert now.hyperparameters == before.hyperparameters
    assert now.digest != before.digest, "the copy itself was edited"


def test_a_run_of_an_earlier_version_gets_its_copies_when_it_goes_on(home: Path, run: RunDirectory) -> None:
    for path in run.inputs.iterdir():
        path.unlink()
    run.inputs.rmdir()
    spec = load_resolved_spec(run.spec)
    assert changed_inputs(run, spec) == []
    assert dataset_yaml(run, spec) == home / "data.yaml"
    keep_inputs(run, spec)
    assert read_inputs(run, spec).hyperparameters.momentum == 0.9


def test_copies_are_written_once(home: Path, run: RunDirectory) -> None:
    (home / "hyp.yaml").write_text("lr0: 0.5\n")
    keep_inputs(run, load_resolved_spec(run.spec))
    assert read_inputs(run, load_resolved_spec(run.spec)).hyperparameters.lr0 == 0.01


@pytest.mark.parametrize("name", ["hyperparameters.yaml", "model.yaml", "dataset.yaml"])
@pytest.mark.parametrize("text", [None, "[", "\x00"])
def test_a_copy_that_is_damaged_is_named(run: RunDirectory, name: str, text: str | None) -> None:
    path = run.inputs / name
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises((RunError, DataError)) as caught:
        read_inputs(run, load_resolved_spec(run.spec))
    assert str(run.inputs) in str(caught.value)


def test_another_copy_has_another_digest(run: RunDirectory) -> None:
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
def test_a_directory_of_a_person_is_never_taken_for_copies(home: Path, tmp_path: Path, name: str) -> None:
    run = RunDirectory(tmp_path / "runs" / "run")
    run.inputs.mkdir(parents=True)
    (run.inputs / name).write_text(DATA)
    with pytest.raises(RunError, match="was not made for a run"):
        prepare_run(run, load_spec(home / "spec.yaml"))
    assert (run.inputs / name).read_text() == DATA
    assert not run.exists


def test_a_file_that_cannot_be_read_leaves_no_run_behind(home: Path, tmp_path: Path) -> None:
    spec = load_spec(home / "spec.yaml")
    (home / "data.yaml").unlink()
    run = RunDirectory(tmp_path / "runs" / "run")
    with pytest.raises(DataError):
        prepare_run(run, spec)
    assert not run.path.exists()


@pytest.mark.parametrize("name", ["no", "0x10", "~", "a: b", "'", "Ä", "猫", "\ud800", " "])
def test_class_names_are_kept_as_they_are(home: Path, tmp_path: Path, name: str) -> None:
    (home / "data.yaml").write_text(yaml.safe_dump({"path": "set", "train": "a", "val": "b", "names": [name, "x"]}))
    spec = load_spec(home / "spec.yaml")
    run = RunDirectory(tmp_path / "runs" / "run")
    prepare_run(run, spec)
    assert read_inputs(run, spec).dataset.names == (name, "x")
    assert changed_inputs(run, spec) == []
