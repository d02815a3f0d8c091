"""Merge trees of untyped YAML values: every value keeps the location of the file that it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hpc_yolo.spec.problems import Location
from hpc_yolo.spec.yaml_tree import Mapping, Node, Scalar, Sequence

# Fields of which a job has one: a later one replaces all of them.
EXCLUSIVE = frozenset({"mem", "mem_per_cpu", "mem_per_gpu"})
ADDED = ("modules", "setup")  # what a site needs comes before what a run needs


def overlay(below: Node | None, above: Node | None) -> Node | None:
    """Return `above` on top of `below`: mappings are merged key by key, anything else is replaced.

    Modules and setup lines are added to those below; a purge in front stays in front.
    """
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return below if above is None else above
    dropped = EXCLUSIVE if EXCLUSIVE & above.keys.keys() else frozenset()
    merged = Mapping(above.location)
    for key, location in below.keys.items():
        if key not in dropped:
            merged.keys[key] = location
            if key in below.values:
                merged.values[key] = below.values[key]
    for key, location in above.keys.items():
        merged.keys[key] = location
        value = overlay(below.values.get(key), above.values.get(key))
        if key in ADDED:
            value = _added(below.values.get(key), value)
        if value is not None:
            merged.values[key] = value
    return merged


def _added(below: Node | None, above: Node | None) -> Node | None:
    first, last = _items(below), _items(above)
    if above is None or first is None or last is None:
        return above
    lower, upper = _texts(first), _texts(last)
    num_purges = int(upper[:1] == ["purge"])  # unloads what the login shell has, not what the site needs
    if upper[num_purges : num_purges + len(lower)] == lower:  # in the spec of a run, which has all values
        return above
    return Sequence(above.location, [*last[:num_purges], *first, *last[num_purges:]])


def _texts(items: list[Node]) -> list[str]:
    return [item.text if isinstance(item, Scalar) else "" for item in items]


def _items(node: Node | None) -> list[Node] | None:
    """Return the items of a list or of one text; None for nothing, null and mappings."""
    if isinstance(node, Sequence):
        return node.items
    return [node] if isinstance(node, Scalar) and not node.is_null else None


def only(node: Node | None, wanted: Callable[[str], bool]) -> Mapping | None:
    """Return the mapping `node` with those of its keys that are `wanted`; None for other nodes."""
    if not isinstance(node, Mapping):
        return None
    return Mapping(
        node.location,
        {key: location for key, location in node.keys.items() if wanted(key)},
        {key: value for key, value in node.values.items() if wanted(key)},
    )


def at(node: Node | None, *keys: str) -> Node | None:
    """Return the value under nested `keys`; None where there is none."""
    for key in keys:
        node = node.values.get(key) if isinstance(node, Mapping) else None
    return node


def text_at(node: Node | None, *keys: str) -> str | None:
    """Return the text of the scalar under nested `keys`; None where there is none, or null."""
    value = at(node, *keys)
    return value.text if isinstance(value, Scalar) and not value.is_null else None


def with_value(node: Node | None, value: Node, *keys: str) -> Mapping:
    """Return the mapping `node` with `value` under nested `keys`."""
    base = node if isinstance(node, Mapping) else Mapping(value.location)
    key, rest = keys[0], keys[1:]
    inner = with_value(base.values.get(key), value, *rest) if rest else value
    location = base.keys.get(key, value.location) if rest else value.location
    return Mapping(base.location, {**base.keys, key: location}, {**base.values, key: inner})


def mapped(node: Node, change: Callable[[Scalar], Scalar]) -> Node:
    """Return `node` with every scalar in it replaced by `change`."""
    if isinstance(node, Scalar):
        return change(node)
    if isinstance(node, Sequence):
        return Sequence(node.location, [mapped(item, change) for item in node.items])
    return Mapping(node.location, node.keys, {key: mapped(value, change) for key, value in node.values.items()})


def leaves(node: Node | None, path: str = "") -> Iterator[tuple[str, Location]]:
    """Yield (dotted field, location) of every value in `node` that is no mapping, and of the items of lists."""
    if isinstance(node, Mapping):
        for key, value in node.values.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
        return
    if node is not None:
        yield path, node.location
    if isinstance(node, Sequence):
        for index, item in enumerate(node.items):
            yield from leaves(item, f"{path}[{index}]")
