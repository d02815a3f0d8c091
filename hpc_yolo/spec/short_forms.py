"""Short forms: a section that is written as the value of one of its fields, such as `data: coco.yaml`."""

from __future__ import annotations

import msgspec

from hpc_yolo.spec.yaml_tree import Mapping, Node, Scalar

FIELD_OF = {"data": "path"}  # section -> the field that its short form is the value of


def long_form(tree: Node | None) -> Node | None:
    """Return the tree of a spec with sections in place of short forms."""
    if not isinstance(tree, Mapping):
        return tree
    values = {key: _section(key, node) for key, node in tree.values.items()}
    return msgspec.structs.replace(tree, values=values)


def long_name(field: str) -> str:
    """Return the dotted name of the value that a short form sets; other names as they are."""
    return f"{field}.{FIELD_OF[field]}" if field in FIELD_OF else field


def _section(key: str, node: Node) -> Node:
    if key not in FIELD_OF or not isinstance(node, Scalar) or node.is_null:
        return node
    return Mapping(node.location, {FIELD_OF[key]: node.location}, {FIELD_OF[key]: node})
