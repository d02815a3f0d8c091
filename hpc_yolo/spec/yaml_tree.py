"""YAML text as a small tree of untyped values with the location of every key and value.

Types come from the schema, so YAML's own guesses (base 60, octal, yes and no, dates) never touch a value.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

import msgspec
import yaml
import yaml.reader

from hpc_yolo.spec.problems import Location, Problem

MAX_NODES = 10_000  # a spec has a few dozen values; aliases of aliases of aliases have billions
MAX_DEPTH = 50  # a spec has four levels; the composer is recursive and would run out of stack
UNPRINTABLE = yaml.reader.Reader.NON_PRINTABLE  # what YAML allows; compiling it again would take 4 ms
CORE_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map", "timestamp", "value")
)
MERGE_TAG = "tag:yaml.org,2002:merge"  # what << is; as a key it is just one that no section knows
NULLS = frozenset({"", "~", "null", "Null", "NULL"})
REPLACEMENT = "\ufffd"
_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Scalar(msgspec.Struct, frozen=True):
    """One value as it was written. `plain`: without quotes."""

    location: Location
    text: str
    plain: bool

    @property
    def is_null(self) -> bool:
        """True for nothing, ~ or null."""
        return self.plain and self.text in NULLS


class Sequence(msgspec.Struct, frozen=True):
    """A list."""

    location: Location
    items: list[Node]


class Mapping(msgspec.Struct, frozen=True):
    """Keys with their locations, and values."""

    location: Location
    keys: dict[str, Location] = msgspec.field(default_factory=dict)
    values: dict[str, Node] = msgspec.field(default_factory=dict)


Node = Scalar | Sequence | Mapping


class _TooLarge(yaml.MarkedYAMLError):
    """YAML with more values or levels than any spec."""


def read_yaml(path: Path, problems: list[Problem]) -> Node | None:
    """Return the tree of the file `path`; None after a problem, which is added to `problems`."""
    whole = Location(str(path))
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        near = sorted(str(other) for directory in (path.parent, Path("configs")) for other in directory.glob("*.yaml"))
        problems.append(Problem(whole, "", "there is no such file", ", ".join(near[:5])))
        return None
    except IsADirectoryError:
        problems.append(Problem(whole, "", "is a directory", "a YAML file"))
        return None
    except UnicodeDecodeError as error:
        problems.append(Problem(whole, "", f"is not UTF-8 text (byte {error.start})", "a YAML file in UTF-8"))
        return None
    except OSError as error:
        problems.append(Problem(whole, "", f"cannot be read: {error.strerror}"))
        return None
    return parse_yaml(text, str(path), problems)


def parse_yaml(
    text: str, source: str, problems: list[Problem], *, is_option: bool = False, path: str = ""
) -> Node | None:
    """Return the tree of `text` without the values that have problems, which are added to `problems`.

    Args:
        path: the dotted field whose value `text` is; '' for a whole file.
    """
    if bad := UNPRINTABLE.search(text):
        before = f"{text[: bad.start()]}{REPLACEMENT}".splitlines()
        location = Location(source) if is_option else Location(source, len(before), len(before[-1]), before[-1])
        problems.append(Problem(location, "", f"the character {bad[0]!a} is not allowed in YAML", "printable text"))
        return None
    converter = _Converter(source, text.splitlines(), problems, is_option)
    try:
        _refuse_depth(text)
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else converter.convert(node, path, 0)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        location = Location(source) if mark is None else converter.location(mark)
        message = error.problem or error.context or ""
        if "maximum nesting" in message:  # newer parsers in C stop by themselves, at a thousand levels
            message = f"more than {MAX_DEPTH} levels"
        elif location.text[location.column - 1 :].startswith("\t"):
            message = "not YAML: a tab, where YAML is indented with spaces"
        elif "another document" in message:
            message = "not YAML: a second document begins, and a file has one"
        elif not isinstance(error, _TooLarge):
            message = f"not YAML: {message}"
        problems.append(Problem(location, "", message))
        return None


def _refuse_depth(text: str) -> None:
    """Raise before the composer runs out of stack; the parser itself is not recursive."""
    depth = 0
    event: Any
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _TooLarge(problem=f"more than {MAX_DEPTH} levels", problem_mark=event.start_mark)


class _Converter:
    def __init__(self, source: str, lines: list[str], problems: list[Problem], is_option: bool) -> None:
        self._source = source
        self._lines = lines
        self._problems = problems
        self._is_option = is_option
        self._num_nodes = 0

    def convert(self, node: yaml.Node, path: str, depth: int) -> Node | None:
        """Return `node` with its content; too many values or levels, as aliases make them, are refused."""
        location = self.location(node.start_mark)
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES or depth > MAX_DEPTH:
            limit = f"{MAX_DEPTH} levels" if depth > MAX_DEPTH else f"{MAX_NODES} values"
            raise _TooLarge(problem=f"more than {limit}; aliases of aliases?", problem_mark=node.start_mark)
        if not self._tag_is_read(node, location, path):
            return None
        if isinstance(node, yaml.ScalarNode):
            if bad := control_characters(node.value, allowed=allowed_in(path)):
                self._problems.append(
                    Problem(location, path, f"control characters {bad}", "printable text on one line")
                )
                return None
            return Scalar(location, node.value, plain=not node.style)
        if isinstance(node, yaml.SequenceNode):
            items = [self.convert(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(node.value)]
            return Sequence(location, [item for item in items if item is not None])
        return self._convert_mapping(node, path, location, depth)

    def _convert_mapping(self, node: yaml.Node, path: str, location: Location, depth: int) -> Mapping:
        mapping = Mapping(location)
        for key_node, value_node in node.value:
            key_location = self.location(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                self._problems.append(Problem(key_location, path, "a key must be plain text"))
                continue
            if key_node.tag != MERGE_TAG and not self._tag_is_read(key_node, key_location, path):
                continue
            key = key_node.value
            key_path = f"{path}.{key}" if path else key
            if bad := control_characters(key):
                self._problems.append(
                    Problem(key_location, path, f"control characters {bad} in a key", "printable text")
                )
                continue
            if key in mapping.keys:
                message = f"written twice; the first is in line {mapping.keys[key].line}"
                self._problems.append(Problem(key_location, key_path, message, "each key once"))
                continue
            mapping.keys[key] = key_location
            value = self.convert(value_node, key_path, depth + 1)
            if value is not None:
                mapping.values[key] = value
        return mapping

    def _tag_is_read(self, node: yaml.Node, location: Location, path: str) -> bool:
        if node.tag in CORE_TAGS:
            return True
        self._problems.append(Problem(location, path, f"the tag {node.tag!r} is not read", "plain values without tags"))
        return False

    def location(self, mark: yaml.Mark) -> Location:
        """Return the line and column of `mark`, or the option as a whole."""
        if self._is_option:
            return Location(self._source)
        text = self._lines[mark.line] if mark.line < len(self._lines) else ""
        return Location(self._source, mark.line + 1, mark.column + 1, text)


def allowed_in(path: str) -> str:
    """Return the control characters that a value of the dotted field `path` may hold: shell lines may be a block.

    They are in the cluster, the stages and the messages of a spec, and in the rows of a site profile.
    """
    return (
        "\n\t"
        if re.fullmatch(r"(cluster|gpus\..+)\.setup(\[\d+\])?|then\[\d+\]\.shell|notify\.command(\[\d+\])?", path)
        else ""
    )


def control_characters(text: str, *, allowed: str = "") -> str:
    """Return the control characters and line separators in `text`, escaped; they would run as shell in a script."""
    found = {character for character in text if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")}
    return ", ".join(sorted(ascii(character) for character in found - set(allowed)))
