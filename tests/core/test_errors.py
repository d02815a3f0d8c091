"""The tree of errors is the one that its docstring draws, with the exit codes that scripts rely on."""

import ast
import copy
import pickle
import re
from pathlib import Path

import pytest

import hpc_yolo
from hpc_yolo.core import errors
from hpc_yolo.core.errors import HpcYoloError

PACKAGE = Path(hpc_yolo.__file__).parent
LINE = re.compile(r"^    (?P<indent>[| `-]*)(?P<name>[A-Z]\w+) +(?P<code>\d+)\b", re.MULTILINE)


def drawn_tree():
    """Name -> (name of the parent, exit code), as the docstring draws them."""
    tree, above = {}, []
    for match in LINE.finditer(errors.__doc__):
        depth = len(match["indent"]) // 4
        above[depth:] = [match["name"]]
        tree[match["name"]] = (above[depth - 1] if depth else "Exception", int(match["code"]))
    return tree


def all_kinds(kind=HpcYoloError):
    return [kind, *(lower for below in kind.__subclasses__() for lower in all_kinds(below))]


def test_the_tree_in_the_docstring_is_the_tree_of_classes():
    assert drawn_tree() == {kind.__name__: (kind.__base__.__name__, kind.exit_code) for kind in all_kinds()}


def test_no_other_module_adds_a_kind_of_error():
    sources = [path for path in PACKAGE.rglob("*.py") if path != Path(errors.__file__)]
    assert len(sources) > 20
    classes = [
        node for path in sources for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
    ]
    bases = {ast.unparse(base).rpartition(".")[2]: node.name for node in classes for base in node.bases}
    assert {name: base for base, name in bases.items() if base in drawn_tree()} == {}


def test_every_kind_of_error_has_an_exit_code_of_its_own():
    codes = [kind.exit_code for kind in all_kinds()]
    assert len(set(codes)) == len(codes)
    assert not {0, 2 + 128, 15 + 128} & set(codes), "taken by success and by signals"


def test_the_documentation_lists_each_exit_code():
    page = (PACKAGE.parent / "docs" / "commands.md").read_text()
    section = page.partition("## Exit codes\n")[2].partition("\n## ")[0]
    said = {int(code) for code in re.findall(r"(?:^|·\s+)(\d+) ", section)}
    assert said == {0, 130} | {kind.exit_code for kind in all_kinds()}


@pytest.mark.parametrize("kind", all_kinds(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("hint", [None, "type this"])
def test_an_error_crosses_a_process_boundary_with_its_hint(kind, hint):
    error = kind("what is wrong", hint=hint)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert (again.message, again.hint, str(again), again.args) == (error.message, hint, str(error), error.args)


def test_the_hint_is_on_a_line_of_its_own():
    assert str(HpcYoloError("wrong")) == "wrong"
    assert str(HpcYoloError("wrong", hint="do this")) == "wrong\n  hint: do this"


def test_a_hint_must_be_named():
    with pytest.raises(TypeError):
        HpcYoloError("wrong", "do this")  # type: ignore[call-arg]
