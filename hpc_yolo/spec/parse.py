"""YAML text as a small tree that remembers where every key and value stands, and gives no value a type.

Types come from the schema, so YAML's own guesses (base 60, octal, yes and no, dates) never touch a value.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field

import yaml

from hpc_yolo.spec.problems import Place, Problem

MAX_NODES = 10_000  # a spec has a few dozen values; aliases of aliases of aliases have billions
CORE_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map", "timestamp", "value")
)
_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Scalar:
    """One value as it was written. `plain`: without quotes."""

    place: Place
    text: str
    plain: bool


@dataclass(frozen=True)
class Sequence:
    """A list."""

    place: Place
    items: list[Node]


@dataclass(frozen=True)
class Mapping:
    """Keys with their places, and values."""

    place: Place
    keys: dict[str, Place] = field(default_factory=dict)
    values: dict[str, Node] = field(default_factory=dict)


Node = Scalar | Sequence | Mapping


def parse_yaml(text: str, source: str, problems: list[Problem], *, is_option: bool = False) -> Node | None:
    """The tree of `text`; what is wrong with it goes to `problems`, and the rest is read all the same."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(source) if is_option or mark is None else _place(mark, source, text.splitlines())
        problems.append(Problem(place, "", f"not YAML: {error.problem or error.context}"))
        return None
    except yaml.YAMLError as error:
        problems.append(Problem(Place(source), "", f"not YAML: {str(error).splitlines()[0]}"))
        return None
    if node is None:
        return None
    return _Converter(source, text.splitlines(), problems, is_option).convert(node, "")


class _Converter:
    def __init__(self, source: str, lines: list[str], problems: list[Problem], is_option: bool) -> None:
        self._source = source
        self._lines = lines
        self._problems = problems
        self._is_option = is_option
        self._num_nodes = 0

    def convert(self, node: yaml.Node, path: str) -> Node | None:
        place = self._place(node.start_mark)
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES:
            if self._num_nodes == MAX_NODES + 1:
                self._problems.append(Problem(place, path, f"more than {MAX_NODES} values; aliases of aliases?"))
            return None
        if node.tag not in CORE_TAGS:
            self._problems.append(Problem(place, path, f"the tag {node.tag} is not read", "plain values without tags"))
            return None
        if isinstance(node, yaml.ScalarNode):
            if bad := control_characters(node.value):
                self._problems.append(Problem(place, path, f"control characters {bad}", "printable text on one line"))
                return None
            return Scalar(place, node.value, plain=not node.style)
        if isinstance(node, yaml.SequenceNode):
            items = [self.convert(item, f"{path}[{index}]") for index, item in enumerate(node.value)]
            return Sequence(place, [item for item in items if item is not None])
        return self._convert_mapping(node, path, place)

    def _convert_mapping(self, node: yaml.Node, path: str, place: Place) -> Mapping:
        mapping = Mapping(place)
        for key_node, value_node in node.value:
            key_place = self._place(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                self._problems.append(Problem(key_place, path, "a key must be plain text"))
                continue
            key = key_node.value
            key_path = f"{path}.{key}" if path else key
            if bad := control_characters(key):
                self._problems.append(Problem(key_place, path, f"control characters {bad} in a key", "printable text"))
                continue
            if key in mapping.keys:
                message = f"written twice; the first is in line {mapping.keys[key].line}"
                self._problems.append(Problem(key_place, key_path, message, "each key once"))
                continue
            mapping.keys[key] = key_place
            value = self.convert(value_node, key_path)
            if value is not None:
                mapping.values[key] = value
        return mapping

    def _place(self, mark: yaml.Mark) -> Place:
        return Place(self._source) if self._is_option else _place(mark, self._source, self._lines)


def _place(mark: yaml.Mark, source: str, lines: list[str]) -> Place:
    text = lines[mark.line] if mark.line < len(lines) else ""
    return Place(source, mark.line + 1, mark.column + 1, text)


def control_characters(text: str) -> str:
    """The control characters and line separators in `text`, escaped; they would run as shell in a script."""
    found = {character for character in text if unicodedata.category(character) in ("Cc", "Zl", "Zp")}
    return ", ".join(sorted(ascii(character) for character in found))
