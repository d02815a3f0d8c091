"""Hyperparameter sets: published values, files of users with their own locations, and overrides."""

from pathlib import Path

import msgspec
import pytest
from golden import GOLDEN

from hpc_yolo.core.errors import SpecError
from hpc_yolo.spec.hyperparameters import (
    AUTO,
    IGNORED,
    hyperparameter_names,
    load_hyperparameters,
    set_of_model,
    written_hyperparameters,
)
from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.spec.train import TrainSpec

REPOSITORY = Path(__file__).parents[2]
PUBLISHED = GOLDEN["hyps"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_set_has_published_values(name):
    hyp = msgspec.to_builtins(load_hyperparameters(TrainSpec(hyp=name.lower())))
    defaults = msgspec.to_builtins(Hyperparameters())
    published = {field: value for field, value in PUBLISHED[name].items() if field not in IGNORED}
    assert {field: hyp[field] for field in published} == published
    others = hyp.keys() - published.keys()
    assert {field: hyp[field] for field in others} == {field: defaults[field] for field in others}


def test_hyperparameter_without_effect_is_accepted_and_dropped(tmp_path):
    path = tmp_path / "hyp.yaml"
    path.write_text("iou_t: 0.2\nlr0: 0.02\n")
    assert load_hyperparameters(TrainSpec(hyp=str(path))) == Hyperparameters(lr0=0.02)
    assert written_hyperparameters(path) == {"lr0": 0.02}


def test_sets_of_package_are_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    in_directory = sorted(path.stem for path in (REPOSITORY / "configs/hyp").glob("*.yaml"))
    assert hyperparameter_names() == in_directory
    assert {name.lower() for name in PUBLISHED} < set(in_directory)
    for name in in_directory:
        load_hyperparameters(TrainSpec(hyp=name))


def test_no_augmentation_set_disables_augmentation():
    hyp = load_hyperparameters(TrainSpec(hyp="no-augmentation"))
    changes = ("hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective")
    chances = ("flipud", "fliplr", "mosaic", "mixup", "copy_paste")
    assert [getattr(hyp, name) for name in (*changes, *chances)] == [0.0] * 13


def test_overrides_replace_values_of_file():
    hyp = load_hyperparameters(TrainSpec(hyp="voc", hyp_overrides={"lr0": 0.5, "warmup_epochs": 0}))
    assert hyp == msgspec.structs.replace(load_hyperparameters(TrainSpec(hyp="voc")), lr0=0.5, warmup_epochs=0)


def test_override_of_whole_number_is_one(spec_file):
    spec = spec_file.add("train: {hyp_overrides: {close_mosaic: 10, warmup_epochs: 2}}\n").load()
    expected = Hyperparameters(close_mosaic=10, warmup_epochs=2.0)
    assert repr(load_hyperparameters(spec.train)) == repr(expected)
    drawn = TrainSpec(hyp_overrides={"close_mosaic": 10, "warmup_epochs": 2})  # as a search draws them: whole numbers
    assert repr(load_hyperparameters(drawn)) == repr(expected)


@pytest.mark.parametrize(
    ("close_mosaic", "epochs", "expected"),
    [(0, 3, "+++"), (1, 3, "++-"), (2, 3, "+--"), (3, 3, "---"), (9, 3, "---"), (1, 1, "-")],
)
def test_mosaics_end_with_the_last_epochs(close_mosaic, epochs, expected):
    hyp = Hyperparameters(mosaic=0.5, close_mosaic=close_mosaic)
    assert [hyp.mosaic_in(epoch, epochs) for epoch in range(epochs)] == [0.5 if sign == "+" else 0 for sign in expected]


def test_file_of_user_may_have_changed_values_only(spec_file, tmp_path):
    (tmp_path / "mine.yaml").write_text("lr0: 1e-3\nanchors: ~\n")
    spec = spec_file.add("train: {hyp: mine.yaml}\n").load()
    assert load_hyperparameters(spec.train) == Hyperparameters(lr0=0.001)


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        (b"lr0: 0.01\nmomentum: 2\n", [":2:11: momentum: '2' is not allowed\n"]),
        (b"lr00: 0.01\n", [":1:1: lr00: unknown field\n", "allowed: lr0 is the nearest"]),
        (b"lr0: 010\nbox: ten\nbox: 1\n", [":2:6: box: 'ten'", ":3:1: box: written twice; the first is in line 2"]),
        (b"lr0: .inf\n", [":1:6: lr0: '.inf' is not allowed\n"]),
        (b"- lr0\n", [":1:1: must hold fields\n"]),
        (b"lr0: [\n", [":2:1: not YAML: "]),
        (b"lr0: 0.01 # d\xe9but\n", [": is not UTF-8 text (byte 13)"]),
        (b"lr0: !!python/name:os.system ''\n", [":1:6: lr0: the tag"]),
    ],
)
def test_invalid_hyperparameter_file_error_has_position_in_file(spec_file, tmp_path, content, messages):
    mine = tmp_path / "mine.yaml"
    mine.write_bytes(content)
    problems = spec_file.add("train:\n  hyp: mine.yaml\n").problems()
    text = "\n".join(problems)
    assert all(problem.startswith(f"{spec_file.path}:5:8: train.hyp: {mine}") for problem in problems)
    assert all((f"{mine}{message}" if message.startswith(":") else message) in text for message in messages)
    with pytest.raises(SpecError) as caught:  # also for a file that was changed after the check
        load_hyperparameters(TrainSpec(hyp=str(mine)))
    assert str(mine) in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere", "scratch", "SCRATCH-LOW", "''", ".", "/", "../hyp", "x" * 300])
def test_unknown_set_error_lists_known_sets(spec_file, name):
    problem = spec_file.add(f"train: {{hyp: {name}}}\n").only_problem()
    assert f"{spec_file.path}:4:14: train.hyp: there is no " in problem
    sets = "af-high, af-low, af-med, no-augmentation, objects365, scratch-high, scratch-low, scratch-med, voc"
    assert f"allowed: auto, {sets}, or a file" in problem


@pytest.mark.parametrize("model", ["", "yolov5n", "yolov5x6"])
def test_automatic_set_is_the_usual_one_of_a_model_that_names_none(model):
    assert TrainSpec().hyp == AUTO
    assert load_hyperparameters(TrainSpec(), model) == load_hyperparameters(TrainSpec(hyp="scratch-low"))


def test_automatic_set_is_the_one_that_the_model_names(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text((REPOSITORY / "configs/models/yolov5n.yaml").read_text() + "hyp: voc\n")
    train = TrainSpec(hyp_overrides={"lr0": 0.02})
    expected = msgspec.structs.replace(load_hyperparameters(TrainSpec(hyp="voc")), lr0=0.02)
    assert load_hyperparameters(train, str(path)) == expected
    named = msgspec.structs.replace(train, hyp="scratch-low")
    assert load_hyperparameters(named, str(path)) == load_hyperparameters(named), "a set in the spec wins"


@pytest.mark.parametrize("written", ["nowhere", "hyp.yaml", "auto", "5", "[voc]"])
def test_unknown_set_of_a_model_names_its_file_and_the_sets(tmp_path, written):
    path = tmp_path / "mine.yaml"
    path.write_text((REPOSITORY / "configs/models/yolov5n.yaml").read_text() + f"hyp: {written}\n")
    with pytest.raises(SpecError, match=r"mine\.yaml: hyp: there is no set ") as caught:
        load_hyperparameters(TrainSpec(), str(path))
    assert "scratch-low" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["af-low", "af-med", "af-high"])
def test_sets_of_the_anchor_free_head_leave_out_what_is_for_anchors(name):
    written = written_hyperparameters(REPOSITORY / f"configs/hyp/{name}.yaml")
    left_out = {"box", "obj", "obj_pw", "anchor_t", "anchors"} | {"cls_pw", "fl_gamma"}
    assert written.keys() == set(Hyperparameters.__struct_fields__) - left_out
    assert written["close_mosaic"] == 10


@pytest.mark.parametrize(("sizes", "expected"), [("n n6 s s6", "af-low"), ("m m6", "af-med"), ("l l6 x x6", "af-high")])
def test_models_without_anchors_have_a_set_of_their_own(sizes, expected):
    for size in sizes.split():
        assert set_of_model(f"yolov5{size}-af") == expected
        assert set_of_model(f"yolov5{size}") == "scratch-low"


def test_missing_set_raises_spec_error(tmp_path):
    with pytest.raises(SpecError, match=r"gone\.yaml: there is no such file"):
        load_hyperparameters(TrainSpec(hyp=str(tmp_path / "gone.yaml")))


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("lr0: 0", "over 0, at most 1"),
        ("lr0: 1.1", "over 0, at most 1"),
        ("momentum: -0.1", "at least 0.0, at most 1.0"),
        ("anchor_t: 1", "over 1"),
        ("perspective: 0.01", "at least 0, at most 0.001"),
        ("shear: 90", "at least 0, under 90"),
        ("degrees: 181", "at least 0, at most 180"),
        ("anchors: 0", "at least 1 or null"),
        ("close_mosaic: 2.5", "a whole number at least 0"),
        ("close_mosaic: -1", "a whole number at least 0"),
    ],
)
def test_override_out_of_range_error_has_position(spec_file, override, allowed):
    name, value = override.split(": ")
    problem = spec_file.add(f"train:\n  hyp_overrides:\n    {override}\n").only_problem()
    location = f"{spec_file.path}:6:{len(name) + 7}: train.hyp_overrides.{name}: "
    assert problem.startswith(f"{location}{value} is not allowed")
    assert allowed in problem


@pytest.mark.parametrize("is_override", [True, False])
def test_anchors_for_model_without_any_are_refused(spec_file, tmp_path, is_override):
    (tmp_path / "mine.yaml").write_text("anchors: 4\n")
    own = "hyp_overrides: {anchors: 4}" if is_override else "hyp: mine.yaml"
    text = f"name: small\nmodel: yolov5n-af\ndata: shapes.yaml\ntrain: {{{own}}}\n"
    problem = spec_file.write(text).only_problem()
    assert "asks for anchors, and yolov5n-af has none" in problem
