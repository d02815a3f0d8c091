"""The tree of errors is that of the docstring, with the documented exit codes."""

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


def documented_tree():
    """Return {name: (name of the parent, exit code)} from the docstring."""
    tree, above = {}, []
    for match in LINE.finditer(errors.__doc__):
        depth = len(match["indent"]) // 4
        above[depth:] = [match["name"]]
        tree[match["name"]] = (above[depth - 1] if depth else "Exception", int(match["code"]))
    return tree


def all_classes(error_class=HpcYoloError):
    return [error_class, *(lower for below in error_class.__subclasses__() for lower in all_classes(below))]


def test_tree_in_docstring_is_tree_of_classes():
    assert documented_tree() == {
        error_class.__name__: (error_class.__base__.__name__, error_class.exit_code) for error_class in all_classes()
    }


def test_no_other_module_defines_errors():
    sources = [path for path in PACKAGE.rglob("*.py") if path != Path(errors.__file__)]
    assert len(sources) > 20
    classes = [
        node for path in sources for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
    ]
    bases = {ast.unparse(base).rpartition(".")[2]: node.name for node in classes for base in node.bases}
    assert {name: base for base, name in bases.items() if base in documented_tree()} == {}


def test_exit_codes_of_errors_are_unique():
    codes = [error_class.exit_code for error_class in all_classes()]
    assert len(set(codes)) == len(codes)
    assert not {0, 2 + 128, 15 + 128} & set(codes), "used by success and by signals"


def test_documentation_lists_every_exit_code():
    page = (PACKAGE.parent / "docs" / "commands.md").read_text()
    section = page.partition("## Exit codes\n")[2].partition("\n## ")[0]
    documented = {int(code) for code in re.findall(r"(?:^|·\s+)(\d+) ", section)}
    assert documented == {0, 130} | {error_class.exit_code for error_class in all_classes()}


@pytest.mark.parametrize("error_class", all_classes(), ids=lambda error_class: error_class.__name__)
@pytest.mark.parametrize("hint", [None, "type this"])
def test_pickled_and_copied_error_keeps_hint(error_class, hint):
    error = error_class("what is wrong", hint=hint)
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(copied) is error_class
        assert (copied.message, copied.hint, str(copied), copied.args) == (error.message, hint, str(error), error.args)


def test_hint_is_on_separate_line():
    assert str(HpcYoloError("wrong")) == "wrong"
    assert str(HpcYoloError("wrong", hint="do this")) == "wrong\n  hint: do this"


def test_hint_is_keyword_only():
    with pytest.raises(TypeError):
        HpcYoloError("wrong", "do this")  # type: ignore[call-arg]
