"""Loaded specs have all fields and absolute paths, and stay equal when written and loaded again."""

from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpc_yolo.core.errors import SpecError
from hpc_yolo.spec import yaml_tree
from hpc_yolo.spec.load import Override, check_spec, dump_spec, load_spec
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.shell import DIRECTIVE
from hpc_yolo.spec.trials import value_at

REPOSITORY = Path(__file__).parents[2]
QUICK = settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# Texts that YAML 1.1 reads as other types, or that are easily quoted wrongly.
TRAPS = [
    *("no", "on", "Yes", "y", "true", "TRUE", "tRue", "~", "null", "Null", "nUll", "", " ", "  a ", "1e3", "1.0", ".5"),
    *("0x10", "010", "1_000", "12:30:00", "24:00:00", "2024-01-01", ".inf", ".nan", "=", "<<", "-", "- a", "?", "a: b"),
    *("#", "a #b", "&a", "*a", "!x", "!!str a", "%", "@", "`", "'", '"', "\\n", "{a", "[a", "a]", ",", "|", ">", "---"),
    *("...", "é", "日本", "\U0001f600", "\ufeff", "\u00a0", "\u00ad", "\ufffe", "a\u00a0 b", "$HOME", "$(id)"),
]


@pytest.fixture
def layout(tmp_path, monkeypatch):
    """Return a directory with the directory `specs` and the working directory `here`."""
    for directory in ("specs", "here"):
        (tmp_path / directory).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def load_text(directory, text, *overrides):
    path = directory / "spec.yaml"
    path.write_bytes(text.encode())
    return load_spec(path, overrides)


@pytest.mark.parametrize("field", ["data.path", "model", "weights", "train.hyp"])
@pytest.mark.parametrize(
    ("present", "expected"),
    [(("specs", "here"), "specs"), (("specs",), "specs"), (("here",), "here")],
    ids=["beside spec first", "beside spec", "working directory"],
)
def test_relative_path_is_resolved_beside_spec_then_in_working_directory(layout, field, present, expected):
    for directory in present:
        (layout / directory / "file.yaml").touch()
    spec = load_text(
        layout / "specs", "name: a\nmodel: yolov5n\ndata: d.yaml\n", Override(field, "file.yaml", f"--set {field}")
    )
    assert value_at(spec, field) == str(layout / expected / "file.yaml")


def test_spec_path_may_be_relative(layout):
    (layout / "specs" / "d.yaml").touch()
    (layout / "specs" / "spec.yaml").write_text("name: a\nmodel: yolov5n\ndata: d.yaml\n")
    data = Path(load_spec(Path("../specs/spec.yaml")).data.path)
    assert data.is_absolute() and data.samefile(layout / "specs" / "d.yaml")


def test_missing_paths_are_resolved_from_working_directory(layout):
    spec = load_text(layout / "specs", "name: a\nmodel: yolov5n\ndata: d.yaml\noutput: out\n")
    assert (spec.data.path, spec.output) == (str(layout / "here/d.yaml"), str(layout / "here/out"))


def test_output_is_resolved_from_working_directory(layout):
    (layout / "specs" / "out").mkdir()
    spec = load_text(layout / "specs", "name: a\nmodel: yolov5n\ndata: d.yaml\noutput: out\n")
    assert spec.output == str(layout / "here/out")


def test_names_of_models_and_hyperparameters_are_not_resolved_as_paths(layout):
    for name in ("yolov5n", "scratch-med"):
        (layout / "specs" / name).touch()
    spec = load_text(layout / "specs", "name: a\nmodel: yolov5n\ndata: d.yaml\ntrain: {hyp: scratch-med}\n")
    assert (spec.model, spec.train.hyp, spec.weights) == ("yolov5n", "scratch-med", "")


def test_hyperparameter_file_without_suffix_has_absolute_path(layout):
    (layout / "specs" / "mine").write_text("lr0: 0.5\n")
    spec = load_text(layout / "specs", "name: a\nmodel: yolov5n\ndata: d.yaml\ntrain: {hyp: mine}\n")
    assert spec.train.hyp == str(layout / "specs/mine")


@pytest.mark.parametrize("field", ["data.path", "output", "weights"])
def test_path_too_long_for_file_system_is_accepted(spec_file, field):
    assert str(value_at(spec_file.load(f"{field}={'x' * 300}"), field)).endswith("x" * 300)


def test_quickstart_spec_round_trips(layout):
    spec = load_spec(REPOSITORY / "configs/quickstart.yaml")
    assert load_text(layout / "here", dump_spec(spec)) == spec


def test_dumped_spec_has_every_field(layout):
    spec = load_text(layout / "here", "name: a\nmodel: yolov5n\ndata: d.yaml\n")
    written = yaml.safe_load(dump_spec(spec))
    assert list(written) == list(Spec.__struct_fields__)
    assert written == msgspec.to_builtins(spec)


TEXTS = st.sampled_from(TRAPS) | st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=40)
OPTIONAL = st.none() | TEXTS
MEMORY = st.none() | st.sampled_from(["400G", "4000", "1t", "64GB"])


@st.composite
def valid_specs(draw):
    """Draw specs as `load_spec` returns them: every field valid, paths absolute."""
    nodes, gpus = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    executor = draw(st.sampled_from(["auto", "slurm", "local", "debug"]))
    cluster = {
        "executor": executor,
        "nodes": nodes,
        "gpus_per_node": gpus,
        "gpu_type": draw(OPTIONAL),
        "mem": draw(MEMORY),
        "time": draw(st.none() | st.sampled_from(["12:30:00", "90", "1-0", "2-00:00:30", "5:30"])),
        **{name: draw(OPTIONAL) for name in ("partition", "account", "qos", "constraint")},
        "exclude": draw(st.lists(TEXTS, max_size=3)),
        "setup": draw(st.lists(TEXTS.filter(lambda line: not DIRECTIVE.match(line)), max_size=3)),
        "signal_before_s": draw(st.just("auto") | st.integers(1, 29)),
        "srun": draw(st.dictionaries(st.sampled_from(["mpi", "off", "on"]), OPTIONAL | st.booleans(), max_size=3)),
        "prefix": draw(st.just([]) | st.lists(TEXTS, max_size=2).map(lambda words: ["env", *words])),
        "env": draw(st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True), TEXTS, max_size=3)),
        "container": draw(
            st.none()
            | st.fixed_dictionaries(
                {
                    "image": TEXTS.filter(str.strip).map(lambda text: f"/images/{text.strip()}"),
                    "mounts": st.lists(st.sampled_from(["/a", "/a:/b", "$A/x:/c:ro", "~:/d"]), unique=True, max_size=2),
                    "workdir": st.none() | st.just("/work"),
                    "env": st.dictionaries(st.sampled_from(["no", "A"]), TEXTS, max_size=2),
                    "options": st.lists(TEXTS.filter(lambda word: not word.startswith("-")), max_size=2),
                    "code": st.sampled_from(["image", "mounted"]),
                }
            )
        )
        if executor in ("auto", "slurm")
        else None,
        "sbatch": draw(
            st.dictionaries(
                st.sampled_from(["comment", "no", "on", "y", "null", "wckey"]), OPTIONAL | st.booleans(), max_size=3
            )
        ),
    }
    train = {
        "batch": nodes * gpus * draw(st.integers(1, 4)),
        "seed": draw(st.integers(0, 10**12)),
        "sync_bn": draw(st.booleans()),
        "label_smoothing": draw(st.floats(0, 1)),
        "stall_timeout_s": draw(st.just("auto") | st.integers(10, 10**6)),
        "hyp_overrides": draw(
            st.dictionaries(st.sampled_from(["box", "cls", "obj"]), st.floats(0, allow_infinity=False), max_size=3)
        ),
    }
    checkpoint = {"every_s": draw(st.none() | st.integers(1, 10**6))}
    name = draw(
        st.sampled_from(["no", "1e3", "0x10", "010", "true", "null", "12"])
        | st.from_regex("[A-Za-z0-9_]{1,9}", fullmatch=True)
    )
    data = "/datasets/x" + draw(TEXTS).replace("/", "")
    fields = {"name": name, "model": "yolov5n", "data": {"path": data}, "output": data.replace("$", "") + "/runs"}
    return msgspec.convert(fields | {"cluster": cluster, "train": train, "checkpoint": checkpoint}, Spec)


@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
@settings(QUICK, max_examples=40)
@given(spec=valid_specs())
def test_any_spec_round_trips(layout, monkeypatch, loader, spec):
    monkeypatch.setattr(yaml_tree, "_Loader", getattr(yaml, loader))
    assert load_text(layout, dump_spec(spec)) == spec


@pytest.mark.parametrize("text", TRAPS)
@pytest.mark.parametrize("field", ["cluster.partition", "cluster.env.A", "cluster.sbatch.comment", "cluster.exclude"])
def test_text_that_looks_like_another_yaml_type_round_trips(layout, field, text):
    plain = load_text(layout, "name: a\nmodel: yolov5n\ndata: d.yaml\n")
    tree = msgspec.to_builtins(plain)
    tree["cluster"] |= {
        "cluster.partition": {"partition": text},
        "cluster.env.A": {"env": {"A": text}},
        "cluster.sbatch.comment": {"sbatch": {"comment": text}},
        "cluster.exclude": {"exclude": [text, text]},
    }[field]
    spec = msgspec.convert(tree, Spec)
    assert load_text(layout, dump_spec(spec)) == spec


PIECES = [
    *("name: a\n", "model: yolov5n\n", "data: d\n", "train:\n", "cluster:\n", "  epochs: 1\n", "  env: {A: 1}\n"),
    *("  hyp_overrides: {lr0: 1e-3}\n", "  exclude: [a, b]\n", "&a ", "*a ", "!!map ", "!x ", "? ", ": ", "- ", "<<: "),
    *("{", "}", "[", "]", ",", "|\n", ">-\n", "'", '"', "\\", "#", "%YAML 1.1\n", "---\n", "...\n", "\t", "  ", "\n"),
    *("\u2028", "\x85", "\r", "\0", "~", "1e999", "0x", "sweep: {a: [b]}\n", "  batch: 0\n", "  imgsz: 33\n", "\ufeff"),
    *("  hyp: /dev/null\n", "  hyp: .\n", "  hyp: /\n", "  time: 0\n", "  mem: x\n", "  device: 1,2\n", "  nodes: 3\n"),
]
YAML_LIKE = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12).map("".join)


@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
@settings(QUICK, max_examples=200)
@given(text=YAML_LIKE)
def test_any_text_gives_problems_of_spec_only(layout, monkeypatch, loader, text):
    monkeypatch.setattr(yaml_tree, "_Loader", getattr(yaml, loader))
    path = layout / "spec.yaml"
    path.write_bytes(text.encode("utf-8", "replace"))
    _, problems = check_spec(path)
    assert all(str(problem).startswith(f"{path}:") for problem in problems)


@settings(QUICK, max_examples=200)
@given(content=st.binary(max_size=40))
def test_any_bytes_raise_spec_error_only(layout, content):
    path = layout / "spec.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError):
        load_spec(path)


@settings(QUICK, max_examples=200)
@given(
    path=st.sampled_from(["train", "train.epochs", "cluster.env.A", "name", "train.hyp", "data"]) | st.text(max_size=9),
    text=YAML_LIKE,
)
def test_any_override_gives_problems_of_spec_only(layout, path, text):
    file = layout / "spec.yaml"
    file.write_text("name: a\nmodel: yolov5n\ndata: d.yaml\n")
    _, problems = check_spec(file, [Override(path, text, f"--set {path}={text}")])
    assert all("--set" in str(problem) for problem in problems)
