"""The schema's fields as data: types, metadata and limits, and the text of their allowed values."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from hpc_yolo.spec.section import Section

SectionType = TypeVar("SectionType", bound=Section)

TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
PLURALS = {
    str: "texts",
    int: "whole numbers",
    float: "numbers",
    int | float | bool | str: "values",
    list[int | float | bool | str]: "lists of values",
    dict[str, int | float | bool | str]: "groups of names with values",
}
LIMITS = {"ge": "at least {}", "gt": "over {}", "le": "at most {}", "lt": "under {}", "multiple_of": "multiple of {}"}


@cache
def field_infos(section: type[Section]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Return the fields of `section` with types and defaults, in the order of the schema."""
    return msgspec.structs.fields(section)


@cache
def field_types(section: type[Section]) -> dict[str, Any]:
    """Return name of each field as it is written -> annotated type."""
    return {field.encode_name: field.type for field in field_infos(section)}


def required_fields(section: type[Section]) -> list[str]:
    """Return the names of the fields without a default."""
    return [field.encode_name for field in field_infos(section) if field.required]


def made(section: type[SectionType], values: Mapping[str, Any]) -> SectionType:
    """Return the section with `values`, by the names of fields as they are written: `in` is no name in Python."""
    names = {field.encode_name: field.name for field in field_infos(section)}
    return section(**{names[written]: value for written, value in values.items()})


def stand_in(kind: Any) -> Any:
    """Return a value for a required field of type `kind` that is missing."""
    section = section_type(kind)
    if section is None:
        return ""
    return made(section, {name: stand_in(field_types(section)[name]) for name in required_fields(section)})


def unwrapped(kind: Any) -> Any:
    """Return the type in `kind` without its annotations."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind


def section_type(kind: Any) -> type[Section] | None:
    """Return the section that `kind` is, perhaps among other values such as null; None for a plain value."""
    kinds = (unwrapped(alternative) for alternative in alternatives_of(kind))
    return next((bare for bare in kinds if isinstance(bare, type) and issubclass(bare, Section)), None)


def is_optional(kind: Any) -> bool:
    """Return True if a field of this type may be null."""
    return type(None) in map(unwrapped, alternatives_of(kind))


def item_section(kind: Any) -> type[Section] | None:
    """Return the section of which `kind` is a list; None for other values."""
    bare = unwrapped(kind)
    return section_type(get_args(bare)[0]) if get_origin(bare) is list else None


def alternatives_of(kind: Any) -> list[Any]:
    """Return the members of a union, each with its limits; [kind] for a plain type."""
    bare = unwrapped(kind)
    if get_origin(bare) in (Union, types.UnionType):
        return [alternative for member in get_args(bare) for alternative in alternatives_of(member)]
    return [kind]


def field_extra(kind: Any, name: str) -> Any:
    """Return the value of `name` in the `extra` of a field's metadata; None where it has none."""
    extras = (meta.extra for meta in _metadata(kind) if meta.extra)
    return next((extra[name] for extra in extras if name in extra), None)


def description_of(kind: Any) -> str:
    """Return the sentence of a field.

    Raises:
        TypeError: the field has none.
    """
    found = [meta.description for meta in _metadata(kind) if meta.description]
    if not found:
        raise TypeError(f"a field of type {kind} has no description")
    return str(found[0])


def describe(kind: Any) -> str:
    """Return what a field of this type may hold, as text."""
    return " or ".join(_describe_one(alternative) for alternative in alternatives_of(kind))


def _describe_one(kind: Any) -> str:
    if (allowed := field_extra(kind, "allowed")) is not None:
        return str(allowed)
    bare = unwrapped(kind)
    origin, arguments = get_origin(bare), get_args(bare)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if (section := item_section(bare)) is not None:
        return f"a list of sections with {', '.join(field_types(section))}"
    if origin is list:
        return f"a list of {_plural(arguments[0])}"
    if origin is dict:
        return f"a group of names with {_plural(arguments[1])}"
    if (section := section_type(bare)) is not None:
        return f"a section with {', '.join(field_types(section)) or 'no fields'}"
    return " ".join([TYPE_NAMES[bare], *_limits(kind)])


def _plural(kind: Any) -> str:
    if get_origin(unwrapped(kind)) is Literal:
        return f"{' and '.join(map(str, get_args(unwrapped(kind))))}"
    if (section := section_type(kind)) is not None:
        others = [each for each in alternatives_of(kind) if section_type(each) is None]
        return " or ".join([f"sections with {', '.join(field_types(section))}", *map(_plural, others)])
    if get_origin(unwrapped(kind)) is list:
        return f"lists of {_plural(get_args(unwrapped(kind))[0])}"
    return PLURALS.get(unwrapped(kind), "texts, lists of texts, true or null")


def _limits(kind: Any) -> list[str]:
    found = [
        text.format(limit)
        for meta in _metadata(kind)
        for name, text in LIMITS.items()
        if (limit := getattr(meta, name)) is not None
    ]
    return [", ".join(found)] if found else []


def _metadata(kind: Any) -> Iterator[msgspec.Meta]:
    while get_origin(kind) is Annotated:
        yield from kind.__metadata__
        kind = get_args(kind)[0]
