"""Options of the command line set fields, pass the same checks, and are named in errors."""

import pytest

from hpc_yolo.core.errors import SpecError
from hpc_yolo.spec.load import load_spec


@pytest.mark.parametrize(
    ("assignment", "field", "value"),
    [
        ("train.epochs=7", "train.epochs", 7),
        ("name=other", "name", "other"),
        ("train.hyp_overrides.lr0=1e-3", "train.hyp_overrides", {"box": 0.1, "lr0": 0.001}),
        ("train.hyp_overrides.box=0.2", "train.hyp_overrides", {"box": 0.2}),
        ("train.hyp_overrides={lr0: 0.1}", "train.hyp_overrides", {"lr0": 0.1}),
        ("cluster.env.X=a=b", "cluster.env", {"A": "1", "X": "a=b"}),
        ("cluster.env.X=", "cluster.env", {"A": "1", "X": ""}),
        ("cluster.exclude=[a,b]", "cluster.exclude", ["a", "b"]),
        ("cluster.sbatch.comment=no", "cluster.sbatch", {"comment": "no"}),
        ("cluster.sbatch.exclusive=true", "cluster.sbatch", {"exclusive": True}),
        ("cluster.time=24:00:00", "cluster.time", "24:00:00"),
        ("cluster.time=null", "cluster.time", None),
        ("cluster.qos=no", "cluster.qos", "no"),
        ("checkpoint.every_s=~", "checkpoint.every_s", None),
        ("train.device='0'", "train.device", "0"),
        ("cluster.account='# 1'", "cluster.account", "# 1"),
    ],
)
def test_option_sets_its_field_only(spec_file, assignment, field, value):
    spec_file.add("train: {epochs: 3, hyp_overrides: {box: 0.1}}\ncluster: {time: 1:00:00, env: {A: 1}}\n")
    changed, plain = spec_file.load(assignment), spec_file.load()
    found = changed
    for part in field.split("."):
        found = getattr(found, part)
    assert found == value and type(found) is type(value)
    assert changed.train.epochs == plain.train.epochs or field == "train.epochs"
    assert changed.cluster.env == plain.cluster.env or field == "cluster.env"


def test_last_of_two_options_for_field_is_used(spec_file):
    assert spec_file.load("train.epochs=1", "train.epochs=2").train.epochs == 2


def test_option_replaces_mistake_in_file(spec_file):
    assert spec_file.add("train: {epochs: many}\n").load("train.epochs=2").train.epochs == 2


def test_option_sets_field_in_empty_section(spec_file):
    assert spec_file.add("train:\n").load("train.epochs=2").train.epochs == 2


def test_options_alone_make_valid_spec(tmp_path, spec_file):
    empty = tmp_path / "empty.yaml"
    empty.touch()
    spec = load_spec(empty, spec_file.overrides(["name=a", "model=yolov5n", "data=d.yaml"]))
    assert spec.name == "a"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.epochs=many", "train.epochs: 'many' is not allowed\n  allowed: a whole number"),
        ("train.epochs=", "train.epochs: '' is not allowed\n"),
        ("train.epochs=010", "train.epochs: '010' is not allowed (YAML 1.1 reads a leading zero as base 8; write 10)"),
        ("train.epohcs=3", "train.epohcs: unknown field\n  allowed: epochs is the nearest"),
        ("trian.epochs=3", "trian: unknown field\n  allowed: train is the nearest"),
        ("batch=3", "batch: unknown field\n  allowed: there is train.batch: move it there"),
        ("train.hyp_overrides.lr00=1", "train.hyp_overrides.lr00: unknown hyperparameter\n  allowed: lr0 is the"),
        ("train.hyp_overrides.lr0=2", "train.hyp_overrides.lr0: 2 is not allowed\n  allowed: a number over 0, at most"),
        ("train.hyp=nowhere", "train.hyp: there is no 'nowhere'"),
        ("train.batch=15", "train.batch: 15 is not a multiple of the world size 2"),
        ("cluster.nodes=3", "train.batch: 16 is not a multiple"),
        ("cluster.time=soon", "cluster.time: 'soon' is not a time"),
        ("cluster.sbatch.mem=4G", "cluster.sbatch.mem: has a field of its own\n  allowed: cluster.mem"),
        ("cluster.env.MY-VAR=4", "cluster.env.MY-VAR: not the name of a variable"),
        ("cluster.exclude.0=a", "cluster.exclude: a group of fields is not allowed here"),
        ("train=5", "train: must hold fields"),
        ("train.epochs.x=5", "train.epochs.x: is inside a field that holds no fields"),
        ("name.x=5", "name.x: is inside a field that holds no fields"),
        ("train..epochs=3", "train..epochs: is not a field"),
        (".=3", ".: is not a field"),
        ("then[0].val.split=test", "then[0].val.split: is an item of a list, which is set as a whole"),
        ("output=[a", "not YAML: "),
        ("output=a: b: c", "not YAML: "),
        ("output=!!python/object/apply:os.system [ls]", "the tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
        ("output=&a [*a]", "more than 50 levels"),
        ("train.device=# 3", "train.device: no value, only a comment"),
        ("output=a\nb", "control characters '\\n'"),
        ("output=a\tb", "control characters '\\t'"),
        ("output=a\u2028b", "control characters '\\u2028'"),
        ("output=a\udcffb", "control characters '\\udcff'"),
        ("out\x1bput=a", "control characters '\\x1b'"),
        ('output="a\\nb"', "control characters '\\n'"),
        ("output=a\ufffeb", "the character '\\ufffe' is not allowed in YAML"),
    ],
)
def test_invalid_option_error_quotes_option(spec_file, assignment, message):
    spec_file.add("cluster: {gpus_per_node: 2}\ntrain: {epochs: 3}\n")
    problem = spec_file.only_problem(assignment)
    assert message in problem
    assert not set(problem) - {"\n"} & set(map(chr, [*range(32), 127, 0x2028, 0xDCFF])), "safe to print"
    if assignment != "cluster.nodes=3":  # the batch is as wrong as the nodes; the location in the file is shown
        typed = f"--set {assignment}"
        assert problem.startswith((typed, ascii(typed)))
        assert str(spec_file.path) not in problem


def test_mistakes_in_file_precede_those_in_options(spec_file):
    with pytest.raises(SpecError) as caught:
        spec_file.add("colour: red\n").load("train.epochs=many", "trian.epochs=1")
    lines = [line for line in str(caught.value).splitlines() if not line.startswith("  ")]
    assert lines[0] == "3 mistakes in the spec"
    assert lines[1].startswith(f"{spec_file.path}:4:1: colour")
    assert [line.split(":")[0] for line in lines[2:]] == ["--set train.epochs=many", "--set trian.epochs=1"]


def test_option_keeps_error_of_file_without_spec(spec_file):
    problems = spec_file.write("plain text\n").problems("name=a", "model=yolov5n", "data=d.yaml")
    assert any(f"{spec_file.path}:1:1: must hold fields" in problem for problem in problems)


def test_option_keeps_error_of_section_without_fields(spec_file):
    problems = spec_file.add("train: 5\n").problems("train.epochs=1")
    assert any(f"{spec_file.path}:4:8: train: must hold fields" in problem for problem in problems)


def test_options_keep_error_of_missing_file(tmp_path, spec_file):
    with pytest.raises(SpecError, match="there is no such file"):
        load_spec(tmp_path / "none.yaml", spec_file.overrides(["name=a", "model=yolov5n", "data=d.yaml"]))
