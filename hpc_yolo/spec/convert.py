"""Convert the untyped tree of a spec to typed sections, by the field types of the schema.

A value is read or refused with what is allowed; reading continues after a problem, so that all are reported at once.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from hpc_yolo.spec.fields import (
    alternatives_of,
    describe,
    field_extra,
    field_types,
    is_optional,
    item_section,
    made,
    required_fields,
    section_type,
    stand_in,
    unwrapped,
)
from hpc_yolo.spec.problems import Location, Problem
from hpc_yolo.spec.section import Section
from hpc_yolo.spec.yaml_tree import Mapping, Node, Scalar, Sequence

SectionType = TypeVar("SectionType", bound=Section)

TRUTHS = {form: text == "true" for text in ("true", "false") for form in (text, text.capitalize(), text.upper())}
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
OCTAL = re.compile(r"[-+]?0[0-9]+")
LEADING_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
BASE_60 = re.compile(r"[0-9]+(:[0-9]+)+")


class SectionReader:
    """Reader of sections; collects problems and the locations of all fields in the file."""

    def __init__(self, known_fields: dict[str, str]) -> None:
        self.problems: list[Problem] = []
        self.locations: dict[str, Location] = {}
        self.unusable: set[str] = set()
        self._known_fields = known_fields  # last part of a dotted field -> the whole, to name the section of a field

    def read(self, node: Node | None, section: type[SectionType], path: str, root: Location) -> SectionType:
        """Return `node` as a `section`. Fields that cannot be read get a stand-in and are named in `unusable`."""
        values: dict[str, Any] = {}
        hints = field_types(section)
        if node is not None and not isinstance(node, Mapping) and not is_null(node):
            self._problem(node.location, path, "must hold fields", f"{', '.join(hints)}")
            self.unusable |= {path} if path else set(hints)
            node = None
        if isinstance(node, Mapping):
            for key, key_location in node.keys.items():
                dotted = f"{path}.{key}" if path else key
                if key not in hints:
                    self._unknown(key_location, dotted, key, hints)
                    continue
                self.locations[dotted] = node.values[key].location if key in node.values else key_location
                if key in node.values:
                    self._read_field(values, key, node.values[key], hints[key], dotted)
                else:
                    self.unusable.add(dotted)  # reported already: a tag, control characters
        self._fill_missing(values, section, path, node.location if node is not None else root)
        return made(section, values)

    def _read_field(self, values: dict[str, Any], key: str, node: Node, kind: Any, dotted: str) -> None:
        section = section_type(kind)
        if section is not None and not (is_null(node) and is_optional(kind)):
            values[key] = self.read(node, section, dotted, node.location)
            return
        if (section := item_section(kind)) is not None and isinstance(node, Sequence):
            values[key] = self._read_items(node, section, dotted)
            return
        before = len(self.problems)
        value = self.read_value(node, kind, dotted)
        if len(self.problems) == before or _holds_sections(value):
            values[key] = value
        else:
            self.unusable.add(dotted)

    def _read_items(self, node: Sequence, section: type[SectionType], path: str) -> list[SectionType]:
        items = []
        for index, item in enumerate(node.items):
            dotted = f"{path}[{index}]"
            self.locations[dotted] = item.location
            before = len(self.problems) + len(self.unusable)
            items.append(self.read(item, section, dotted, item.location))
            if len(self.problems) + len(self.unusable) > before:
                self.unusable.add(f"{dotted}.*")  # some field of it, for rules that need all of them
        return items

    def _fill_missing(self, values: dict[str, Any], section: type[Section], path: str, location: Location) -> None:
        for name in required_fields(section):
            if name in values:
                continue
            dotted = f"{path}.{name}" if path else name
            if dotted not in self.locations and not {dotted, path} & self.unusable:
                self._problem(location, dotted, "is missing", describe(field_types(section)[name]))
            self.unusable.add(dotted)
            values[name] = stand_in(field_types(section)[name])

    def read_value(self, node: Node, kind: Any, path: str) -> Any:
        """Return `node` as a value of type `kind`; None after a problem."""
        if (read := field_extra(kind, "read")) is not None and (text := _joined(node)) is not None:
            try:
                node = Scalar(node.location, read(text), plain=False)
            except ValueError as error:
                return self._problem(node.location, path, str(error), describe(kind))
        alternatives = alternatives_of(kind)
        if is_null(node) and type(None) not in alternatives and (empty := _empty_container(alternatives)) is not None:
            return empty
        for alternative in alternatives:
            bare = unwrapped(alternative)
            if isinstance(node, Mapping) and (section := section_type(bare)) is not None:
                return self.read(node, section, path, node.location)
            if get_origin(bare) is list and isinstance(node, Sequence):
                (item_kind,) = get_args(bare)
                return [self.read_value(item, item_kind, f"{path}[{index}]") for index, item in enumerate(node.items)]
            if get_origin(bare) is dict and isinstance(node, Mapping):
                value_kind = get_args(bare)[1]
                return {key: self.read_value(item, value_kind, f"{path}.{key}") for key, item in node.values.items()}
        if not isinstance(node, Scalar):
            seen = "a list" if isinstance(node, Sequence) else "a group of fields"
            return self._problem(node.location, path, f"{seen} is not allowed here", describe(kind))
        found, value = _scalar_value(node, alternatives)
        if found:
            return value
        seen = "nothing" if is_null(node) else repr(node.text)
        return self._problem(node.location, path, f"{seen} is not allowed{_trap(node, alternatives)}", describe(kind))

    def _unknown(self, location: Location, dotted: str, key: str, hints: Iterable[str]) -> None:
        near = difflib.get_close_matches(key, list(hints), n=1)
        elsewhere = self._known_fields.get(key)
        if elsewhere is not None:
            allowed = f"there is {elsewhere}: move it there"
        elif near:
            allowed = f"{near[0]} is the nearest"
        else:
            others = difflib.get_close_matches(key, list(self._known_fields), n=1)
            allowed = f"{self._known_fields[others[0]]} is the nearest" if others else ", ".join(hints)
        self._problem(location, dotted, "unknown field", allowed)

    def _problem(self, location: Location, path: str, message: str, allowed: str) -> None:
        self.problems.append(Problem(location, path, message, allowed))


def _holds_sections(value: Any) -> bool:
    """Return True for a list or group of sections."""
    items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return bool(items) and all(isinstance(item, Section) for item in items)


def _joined(node: Node) -> str | None:
    """Return the text of a scalar, or of the items of a list with commas; None for other nodes and for null."""
    if isinstance(node, Sequence) and all(isinstance(item, Scalar) for item in node.items):
        return ",".join(item.text for item in node.items if isinstance(item, Scalar))
    return node.text if isinstance(node, Scalar) and not is_null(node) else None


def _empty_container(alternatives: list[Any]) -> list[Any] | dict[str, Any] | None:
    """Return the value of a field of lists or groups with nothing after its colon."""
    origins = [get_origin(unwrapped(alternative)) for alternative in alternatives]
    return [] if list in origins else {} if dict in origins else None


def is_null(node: Node) -> bool:
    """Return True for nothing, ~ or null."""
    return isinstance(node, Scalar) and node.is_null


def _scalar_value(node: Scalar, alternatives: list[Any]) -> tuple[bool, Any]:
    """Return (True if an alternative accepts the scalar, its value). Text comes last, since it accepts anything."""
    bare_kinds = [unwrapped(alternative) for alternative in alternatives]
    if is_null(node):
        return type(None) in bare_kinds, None
    for alternative, bare in sorted(zip(alternatives, bare_kinds, strict=True), key=lambda pair: pair[1] is str):
        value = _parse_scalar(node, bare, among_texts=str in bare_kinds)
        if value is not None:
            try:
                return True, msgspec.convert(value, alternative)
            except msgspec.ValidationError:
                continue
    return False, None


def _parse_scalar(node: Scalar, bare: Any, *, among_texts: bool) -> Any:
    if get_origin(bare) is Literal:
        return node.text if node.text in get_args(bare) else None
    if bare is str:
        return node.text
    if not node.plain:
        return None
    if bare is int:
        return int(node.text) if INTEGER.fullmatch(node.text) else None
    if bare is float:
        return float(node.text) if NUMBER.fullmatch(node.text) and math.isfinite(float(node.text)) else None
    if bare is bool:
        return TRUTHS.get(node.text) if among_texts else BOOLEANS.get(node.text.lower())
    return None


def _trap(node: Scalar, alternatives: list[Any]) -> str:
    """Return the reason why what looks like a number is refused."""
    if not {int, float} & set(map(unwrapped, alternatives)):
        return ""
    if OCTAL.fullmatch(node.text):
        decimal = LEADING_ZEROS.sub("", node.text)
        return f" (YAML 1.1 reads a leading zero as base 8; write {decimal})"
    if BASE_60.fullmatch(node.text):
        return " (YAML 1.1 reads colons as base 60; write a plain number)"
    if node.text and not node.plain:
        return " in quotes (quotes make it text)"
    return ""
