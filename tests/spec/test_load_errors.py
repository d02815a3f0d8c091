"""All mistakes of a spec file are reported at once, each with its location, the line and a caret."""

import re

import pytest
import yaml

from hpc_yolo.core.errors import SpecError
from hpc_yolo.spec import yaml_tree
from hpc_yolo.spec.load import dump_spec, load_spec

TEN_MISTAKES = """\
name: bad name!
model: yolov5q
data: shapes.yaml
colour: red
cluster:
  nodes: 010
  time: soon
  mem: four apples
  envv: {}
train:
  epochs: [1, 2]
  imgsz:\t100
  hyp_overrides: {box: 0.05, lr00: 1}
"""
# (line, text above the caret, part of the message)
TEN_LOCATIONS = [
    (1, "bad name!", "name: 'bad name!' is not allowed"),
    (2, "yolov5q", "model: there is no model 'yolov5q'"),
    (4, "colour", "colour: unknown field"),
    (6, "010", "cluster.nodes: '010' is not allowed"),
    (7, "soon", "cluster.time: 'soon' is not a time"),
    (8, "four apples", "cluster.mem: 'four apples' is not an amount of memory"),
    (9, "envv", "cluster.envv: unknown field"),
    (11, "[1, 2]", "train.epochs: a list is not allowed here"),
    (12, "100", "train.imgsz: '100' is not allowed"),
    (13, "1}", "train.hyp_overrides.lr00: unknown hyperparameter"),
]


@pytest.fixture(params=["CSafeLoader", "SafeLoader"])
def either_loader(request, monkeypatch):
    """Select libyaml, or the Python parser that replaces it if PyYAML was built without it."""
    monkeypatch.setattr(yaml_tree, "_Loader", getattr(yaml, request.param))


def test_every_mistake_is_reported_once_with_position_line_and_caret(spec_file):
    with pytest.raises(SpecError) as caught:
        spec_file.write(TEN_MISTAKES).load()
    message = str(caught.value)
    assert message.startswith(f"{len(TEN_LOCATIONS)} mistakes in the spec\n")
    assert message.count(f"{spec_file.path}:") == len(TEN_LOCATIONS)
    printed = message.splitlines()
    lines = TEN_MISTAKES.splitlines()
    heads = [index for index, line in enumerate(printed) if line.startswith(f"{spec_file.path}:")]
    for head, (line, under, text) in zip(heads, TEN_LOCATIONS, strict=True):
        column = lines[line - 1].rindex(under) + 1
        assert printed[head].startswith(f"{spec_file.path}:{line}:{column}: {text}")
        assert printed[head + 1] == f"    {lines[line - 1]}"
        caret = printed[head + 2]
        assert len(caret) == 4 + column and caret.strip() == "^"
        assert caret[4:-1] == re.sub(r"[^\t]", " ", lines[line - 1][: column - 1]), "a tab keeps its width"


def test_one_mistake_has_singular_title(spec_file):
    with pytest.raises(SpecError, match=r"^1 mistake in the spec\n"):
        spec_file.add("colour: red\n").load()


@pytest.mark.parametrize(
    ("added", "message", "allowed"),
    [
        ("train: {epohcs: 3}", "train.epohcs: unknown field", "epochs is the nearest"),
        ("trian: {epochs: 3}", "trian: unknown field", "train is the nearest"),
        ("batch: 16", "batch: unknown field", "there is train.batch: move it there"),
        ("nodes: 2", "nodes: unknown field", "there is cluster.nodes: move it there"),
        ("train: {partition: gpu}", "train.partition: unknown field", "there is cluster.partition: move it there"),
        ("lr0: 0.1", "lr0: unknown field", "there is train.hyp_overrides.lr0: move it there"),
        ("train: {mosaic: 0}", "train.mosaic: unknown field", "there is train.hyp_overrides.mosaic: move it there"),
        ("parttition: gpu", "parttition: unknown field", "cluster.partition is the nearest"),
        ("zzzzzzzz: 1", "zzzzzzzz: unknown field", "name, model, data"),
        ("cluster: &c {nodes: 1}\ntrain: {<<: *c}", "train.<<: unknown field", "epochs, batch"),
    ],
)
def test_unknown_field_error_suggests_field(spec_file, added, message, allowed):
    problem = spec_file.add(added + "\n").only_problem()
    assert message in problem
    assert f"allowed: {allowed}" in problem


@pytest.mark.parametrize(
    ("added", "message", "allowed"),
    [
        ("train: {epochs: many}", "train.epochs: 'many' is not allowed", "a whole number at least 1"),
        ("train: {epochs: 1.5}", "train.epochs: '1.5' is not allowed", "a whole number at least 1"),
        ("train: {epochs: 0}", "train.epochs: '0' is not allowed", "a whole number at least 1"),
        ("train: {epochs: '3'}", "'3' is not allowed in quotes (quotes make it text)", "a whole number"),
        ("train: {epochs: }", "train.epochs: nothing is not allowed", "a whole number"),
        ("train: {epochs: {a: 1}}", "train.epochs: a group of fields is not allowed here", "a whole number"),
        ("train: {epochs: 0x10}", "train.epochs: '0x10' is not allowed", "a whole number"),
        ("train: {epochs: 1_000}", "train.epochs: '1_000' is not allowed", "a whole number"),
        ("train: {epochs: 1:30}", "colons as base 60", "a whole number"),
        ("train: {epochs: 010}", "base 8; write 10)", "a whole number"),
        ("train: {seed: -010}", "base 8; write -10)", "a whole number"),
        ("train: {epochs: " + "9" * 5000 + "}", "train.epochs: '999", "a whole number"),
        ("train: {label_smoothing: 1.5}", "train.label_smoothing", "a number at least 0.0, at most 1.0"),
        ("train: {hyp_overrides: {box: .inf}}", "train.hyp_overrides.box: '.inf'", "a number"),
        ("train: {hyp_overrides: {box: .nan}}", "train.hyp_overrides.box: '.nan'", "a number"),
        ("train: {hyp_overrides: {box: 1e999}}", "train.hyp_overrides.box: '1e999'", "a number"),
        ("train: {sync_bn: maybe}", "train.sync_bn: 'maybe' is not allowed", "true or false"),
        ("train: {sync_bn: 1}", "train.sync_bn: '1' is not allowed", "true or false"),
        ("train: {sync_bn: 'yes'}", "train.sync_bn: 'yes' is not allowed", "true or false"),
        ("train: {optimizer: sgd}", "train.optimizer: 'sgd' is not allowed", "one of SGD, Adam, AdamW"),
        ("train: {device: gpuX}", "train.device: 'gpuX' is not a device", "numbers of GPUs such as 0,1"),
        ("train: {imgsz: 16416}", "train.imgsz", "at least 32, at most 8192, multiple of 32"),
        ("train: 5", "train: must hold fields", "epochs, batch"),
        ("cluster: [nodes, 2]", "cluster: must hold fields", "executor, gpu, nodes"),
        ("cluster: {exclude: {a: b}}", "cluster.exclude: a group of fields", "a list of texts or text"),
        ("cluster: {partition: {a: b}}", "cluster.partition: a group of fields", "text or a list of texts or null"),
        ("cluster: {exclude: [~]}", "cluster.exclude[0]: nothing is not allowed", "text"),
        ("cluster: {setup: [a, [b]]}", "cluster.setup[1]: a list is not allowed here", "text"),
        ("cluster: {env: [A, B]}", "cluster.env: a list is not allowed here", "a group of names with texts"),
        ("cluster: {env: {A: }}", "cluster.env.A: nothing is not allowed", "text"),
        ("cluster: {signal_before_s: soon}", "'soon' is not allowed", "at least 1, at most 65535 or one of auto"),
        ("train: {stall_timeout_s: 9}", "train.stall_timeout_s", "at least 10 or one of auto"),
        ("cluster: {mem: [1G]}", "cluster.mem: a list is not allowed here", "text or null"),
        ("cluster: {sbatch: {comment: [a]}}", "cluster.sbatch.comment: a list", "text or true or false or null"),
        ("output: null", "output: nothing is not allowed", "text"),
    ],
)
def test_value_of_wrong_type_error_lists_allowed_values(spec_file, added, message, allowed):
    problem = spec_file.add(added + "\n").only_problem()
    assert message in problem
    assert allowed in problem.partition("allowed: ")[2]


@pytest.mark.parametrize(
    ("added", "field", "value"),
    [
        ("train: {hyp_overrides: {lr0: 1e-3}}", "train.hyp_overrides", {"lr0": 0.001}),
        ("train: {hyp_overrides: {box: 1.}}", "train.hyp_overrides", {"box": 1.0}),
        ("train: {hyp_overrides: {box: .5}}", "train.hyp_overrides", {"box": 0.5}),
        ("train: {label_smoothing: 0}", "train.label_smoothing", 0.0),
        ("cluster: {time: 24:00:00}", "cluster.time", "24:00:00"),
        ("cluster: {time: 90}", "cluster.time", "90"),
        ("cluster: {qos: no}", "cluster.qos", "no"),
        ("cluster: {qos: ~}", "cluster.qos", None),
        ("cluster: {qos: '~'}", "cluster.qos", "~"),
        ("cluster: {partition: on}", "cluster.partition", "on"),
        ("cluster: {account: 010}", "cluster.account", "010"),
        ("cluster: {account: 2024-01-01}", "cluster.account", "2024-01-01"),
        ("cluster: {constraint: =}", "cluster.constraint", "="),
        ("cluster: {exclude: [on, 1.0, 0x1f]}", "cluster.exclude", ["on", "1.0", "0x1f"]),
        ("cluster: {exclude: }", "cluster.exclude", []),
        ("cluster: {exclude: node1}", "cluster.exclude", "node1"),
        ("cluster: {partition: [on, 010]}", "cluster.partition", ["on", "010"]),
        ("cluster: {setup: module load x}", "cluster.setup", "module load x"),
        ("cluster: {time: 0}", "cluster.time", "0"),
        ("cluster: {mem: 0}", "cluster.mem", "0"),
        ("cluster: {env: }", "cluster.env", {}),
        ("cluster: {env: {A: yes, B: 1e3, C: ''}}", "cluster.env", {"A": "yes", "B": "1e3", "C": ""}),
        ("cluster: {signal_before_s: 90}", "cluster.signal_before_s", 90),
        (
            "cluster: {sbatch: {exclusive: true, comment: yes, wckey: ~, reservation: 'true'}}",
            "cluster.sbatch",
            {"exclusive": True, "comment": "yes", "wckey": None, "reservation": "true"},
        ),
        ("train: {sync_bn: yes}", "train.sync_bn", True),
        ("train: {sync_bn: Off}", "train.sync_bn", False),
        ("train: {device: 0}", "train.device", "0"),
        ("train:", "train.epochs", 100),
        ("checkpoint: {every_s: null}", "checkpoint.every_s", None),
    ],
)
def test_value_is_read_with_type_of_field(spec_file, added, field, value, either_loader):
    found = spec_file.add(added + "\n").load()
    for part in field.split("."):
        found = getattr(found, part)
    assert found == value and type(found) is type(value)


def test_name_of_digits_is_text(spec_file):
    assert spec_file.write("name: 123\nmodel: yolov5n\ndata: d.yaml\n").load().name == "123"


def test_duplicate_key_error_names_both_lines(spec_file):
    problem = spec_file.add("train:\n  epochs: 1\n  epochs: 2\n").only_problem()
    assert problem.startswith(f"{spec_file.path}:6:3: train.epochs: written twice; the first is in line 5\n")


@pytest.mark.parametrize(
    ("added", "location"),
    [
        ("train: [1, 2\n", (5, 1)),
        ("train: 'open\n", None),
        ("train: {epochs: 1}}\n", (4, 19)),
        ("train:\n  epochs: 1\n seed: 2\n", (6, 2)),
        ("train: *nowhere\n", (4, 8)),
        ("train:\n\tepochs: 3\n", (5, 1)),
        ("output: @runs\n", (4, 9)),
        ("---\nname: second\n", (4, 1)),
        ('output: "\\q"\n', None),
    ],
)
def test_invalid_yaml_error_has_position(spec_file, added, location, either_loader):
    problem = spec_file.add(added).only_problem()
    found = re.match(rf"{re.escape(str(spec_file.path))}:(\d+):(\d+): not YAML: \w", problem)
    assert found, problem
    if location is not None:
        assert (int(found[1]), int(found[2])) == location


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: caf\xe9\n", "is not UTF-8 text (byte 9)"),
        ("name: a\n".encode("utf-16"), "is not UTF-8 text (byte 0)"),
        (b"plain text\n", "1:1: must hold fields"),
        (b"- a\n- list\n", "1:1: must hold fields"),
        (b"name: a\nmodel: yolov5n\n# no data\n", "1:1: data: is missing"),
    ],
)
def test_file_without_spec_is_one_mistake(spec_file, content, message):
    assert message in spec_file.write(content).only_problem()


@pytest.mark.parametrize("content", ["", "\n\n", "# nothing\n", "---\n", "~\n", "{}\n"])
def test_empty_file_error_lists_required_fields(spec_file, content):
    problems = spec_file.write(content).problems()
    assert [problem.split("\n")[0].split(": ")[1] for problem in problems] == ["name", "data", "model"]
    assert all(re.match(rf"{spec_file.path}:[12]:1: ", problem) for problem in problems)


def test_missing_file_error_lists_specs_in_directory(tmp_path):
    (tmp_path / "other.yaml").touch()
    with pytest.raises(SpecError, match=r"there is no such file\n  allowed: .*other\.yaml"):
        load_spec(tmp_path / "spec.yaml")


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "is a directory"), ("f" * 300, "cannot be read: File name too long"), ("file/spec.yaml", "cannot be read")],
)
def test_unreadable_path_raises_spec_error(tmp_path, name, message):
    (tmp_path / "file").touch()
    with pytest.raises(SpecError, match=message):
        load_spec(tmp_path / name)


def test_byte_order_mark_is_ignored(spec_file):
    assert spec_file.write("\ufeffname: small\nmodel: yolov5n\ndata: d.yaml\n").load().name == "small"


@pytest.mark.parametrize(
    ("added", "location"),
    [
        ("output: !!python/object/apply:os.system [touch marker]\n", "4:9: output: "),
        ("output: !!python/name:os.system ''\n", "4:9: output: "),
        ("cluster:\n  env: {A: !secret x}\n", "5:12: cluster.env.A: "),
        ("cluster:\n  setup: [!!binary aGk=]\n", "5:11: cluster.setup[0]: "),
        ("!!python/name:os.system output: x\n", "4:1: "),
        ("output: !a%0Ab%1b x\n", "4:9: output: "),
    ],
)
def test_tag_is_refused_without_running_it(spec_file, added, location, monkeypatch, either_loader):
    monkeypatch.chdir(spec_file.path.parent)
    problem = spec_file.add(added).only_problem()
    assert f"{location}the tag '" in problem.split("\n")[0] and "is not read" in problem
    assert not (spec_file.path.parent / "marker").exists()


def test_tag_at_top_is_one_mistake(spec_file):
    assert "the tag" in spec_file.write("!!python/object/apply:os.system [ls]\n").only_problem()


def bomb(levels, open_, close):
    lines = [f"a0: &a0 {open_}{'x: ' if open_ == '{' else ''}1{close}"]
    for level in range(1, levels):
        items = [f"k{index}: *a{level - 1}" if open_ == "{" else f"*a{level - 1}" for index in range(9)]
        lines.append(f"a{level}: &a{level} {open_}{', '.join(items)}{close}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(20, "[", "]"), "more than 10000 values"),
        (bomb(20, "{", "}"), "more than 10000 values"),
        ("cluster: {exclude: &a [*a]}\n", "more than 50 levels"),
        ("cluster: &a {env: *a}\n", "more than 50 levels"),
        ("train: " + "[" * 400 + "]" * 400, "more than 50 levels"),
        ("train: " + "{a: " * 400 + "}" * 400, "more than 50 levels"),
        ("train: " + "[" * 300_000, "more than 50 levels"),  # the composer in C would crash the process
        (
            "".join(f"? &a{n} [{f'*a{n - 1}' if n else ''}]\n: x\n" for n in range(400)) + "z: *a399\n",
            "more than 50 levels",
        ),
    ],
    ids=["lists", "groups", "list in itself", "group in itself", "nested lists", "nested groups", "endless", "in keys"],
)
def test_yaml_that_exhausts_memory_or_stack_is_refused(spec_file, text, message, either_loader):
    problem = spec_file.add(text).problems()[-1]
    assert re.match(rf"{re.escape(str(spec_file.path))}:\d+:\d+: {message}", problem)


CONTROL_CHARACTERS = {
    "\\n": r"'\n'",
    "\\t": r"'\t'",
    "\\e": r"'\x1b'",
    "\\x7f": r"'\x7f'",
    "\\0": r"'\x00'",
    "\\r": r"'\r'",
    "\\N": r"'\x85'",
    "\\u2028": r"'\u2028'",
    "\\P": r"'\u2029'",
}
# Templates with a location of text, and the start of its error.
TEXT_LOCATIONS = {
    "output: {}": "4:9: output: control characters ",
    "{}: 1": "4:1: control characters ",
    "train:\n  {}: 1": "5:3: train: control characters ",
    "cluster:\n  constraint: {}": "5:15: cluster.constraint: control characters ",
    "cluster:\n  exclude:\n    - {}": "6:7: cluster.exclude[0]: control characters ",
    "cluster:\n  partition: {}": "5:14: cluster.partition: control characters ",
    "cluster:\n  env:\n    {}: 1": "6:5: cluster.env: control characters ",
    "cluster:\n  env:\n    A: {}": "6:8: cluster.env.A: control characters ",
    "cluster:\n  sbatch:\n    {}: 1": "6:5: cluster.sbatch: control characters ",
    "cluster:\n  sbatch:\n    comment: {}": "6:14: cluster.sbatch.comment: control characters ",
}


@pytest.mark.parametrize("written", CONTROL_CHARACTERS)
@pytest.mark.parametrize("template", TEXT_LOCATIONS)
def test_control_characters_are_refused_and_escaped_in_error(spec_file, template, written, either_loader):
    problem = spec_file.add(template.format(f'"a{written}b"') + "\n").only_problem()
    assert problem.startswith(f"{spec_file.path}:{TEXT_LOCATIONS[template]}{CONTROL_CHARACTERS[written]}")
    assert problem.isascii() and not re.search(r"[^\n\x20-\x7e]", problem), "the message itself is safe to print"


@pytest.mark.parametrize("written", sorted(CONTROL_CHARACTERS.keys() - {"\\n", "\\t"}))
def test_control_characters_in_shell_lines_are_refused(spec_file, written, either_loader):
    problem = spec_file.add(f'cluster:\n  setup: [x, "a{written}b"]\n').only_problem()
    assert f"cluster.setup[1]: control characters {CONTROL_CHARACTERS[written]}" in problem


@pytest.mark.parametrize("field", ["name", "model", "data"])
def test_control_characters_in_required_field_are_one_mistake(spec_file, field):
    fields = {"name": "small", "model": "yolov5n", "data": "d.yaml"} | {field: '"a\\nrm -rf"'}
    text = "".join(f"{key}: {value}\n" for key, value in fields.items())
    assert f"{field}: control characters '\\n'" in spec_file.write(text).only_problem()


@pytest.mark.parametrize(
    ("setup", "lines"),
    [
        (
            "setup:\n    - |\n      if true; then\n      \techo x\n      fi\n    - last",
            ["if true; then", "\techo x", "fi", "last"],
        ),
        ("setup: |\n    module load x\n\n    source y", ["module load x", "", "source y"]),
        ("setup: |+\n    module load x\n", ["module load x", ""]),
        ("setup: >-\n    module load\n    x", ["module load x"]),
        ('setup: "a\\nb"', ["a", "b"]),
        ("setup: []", []),
        ("setup:", []),
    ],
)
def test_setup_may_be_list_or_block(spec_file, setup, lines, either_loader):
    spec = spec_file.add(f"cluster:\n  {setup}\n").load()
    assert spec.cluster.setup_lines == lines
    assert spec_file.write(dump_spec(spec)).load() == spec


def test_setup_override_may_have_several_lines(spec_file):
    assert spec_file.load("cluster.setup=|\n  a\n  b").cluster.setup_lines == ["a", "b"]
    assert "control characters" in spec_file.only_problem("cluster.account=|\n  a\n  b")


def test_folded_block_is_one_line(spec_file):
    spec = spec_file.add("cluster:\n  setup:\n    - >-\n      module load\n      x\n").load()
    assert spec.cluster.setup == ["module load x"]


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("train:\n\tepochs: 3\n", "not YAML: a tab, where YAML is indented with spaces"),
        ("train:\n  epochs: 3\n \tbatch: 4\n", "not YAML: a tab, where YAML is indented with spaces"),
        ("---\nname: b\n", "not YAML: a second document begins, and a file has one"),
    ],
)
def test_tab_and_second_document_are_named(spec_file, added, message, either_loader):
    """libyaml: found character that cannot start any token; but found another document."""
    assert message in spec_file.add(added).only_problem()


@pytest.mark.parametrize("character", ["\0", "\a", "\x1b", "\x7f", "\x0b", "\x0c", "\x1c", "\ufffe"])
def test_unprintable_character_error_has_position(spec_file, character, either_loader):
    problem = spec_file.add(f"# fine\noutput: a{character}b\n").only_problem()
    assert problem.split("\n")[0] == f"{spec_file.path}:5:10: the character {character!a} is not allowed in YAML"
    assert character not in problem


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\r", "\r\n"])
def test_positions_count_line_separators_of_yaml(spec_file, separator, either_loader):
    problem = spec_file.add(f"# a{separator}# b{separator}trian: 1\n").only_problem()
    assert problem.startswith(f"{spec_file.path}:6:1: trian: unknown field\n    trian: 1\n    ^")


def test_lone_surrogate_is_refused(spec_file, either_loader):
    assert f"{spec_file.path}:4:" in spec_file.add('output: "\\ud800"\n').only_problem()


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("? [a, b]\n: 1\n", "4:3: a key must be plain text"),
        ("cluster:\n  ? {a: b}\n  : 1\n", "5:5: cluster: a key must be plain text"),
    ],
)
def test_key_other_than_text_is_refused(spec_file, added, message):
    assert message in spec_file.add(added).only_problem()


def test_mistake_in_field_causes_no_mistake_in_others(spec_file):
    added = "cluster: {nodes: two, gpus_per_node: 04, tasks_per_node: 4}\ntrain: {batch: 15, device: '0,1'}\n"
    problems = spec_file.add(added).problems()
    assert [problem.split(": ")[1] for problem in problems] == ["cluster.nodes", "cluster.gpus_per_node"]
