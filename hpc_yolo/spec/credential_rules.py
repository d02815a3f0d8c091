"""The refusal of keys, tokens and passwords in a spec, which others read and which is copied to the run directory.

Every value of the file, of its site profile and of options is searched, and the comments of the file. What is found is
removed from all messages.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from hpc_yolo.spec.credentials import MIN_SECRET, Credential, find_credentials, find_formed, is_random
from hpc_yolo.spec.problems import Location, Problem
from hpc_yolo.spec.yaml_tree import Mapping, Node, Scalar, Sequence

Lines = Callable[[str], list[str]]  # of a file, by its name

WEBHOOK_FIELD = "notify.webhook"
WEBHOOK_REMEDY = (
    "write ${SLACK_WEBHOOK} instead and export that variable where you submit, or name a file with mode 600, "
    "file:~/.config/hpc-yolo/webhook; an address without a secret part may be written"
)


class _Found(NamedTuple):
    """A credential in the value of the dotted field `path`."""

    credential: Credential
    path: str
    location: Location


def refuse_credentials(tree: Node | None, path: Path | None, problems: list[Problem]) -> None:
    """Add a problem for each credential in `tree` and in the file `path`, and remove all of them from `problems`.

    Args:
        tree: values of the spec and its site profile.
        path: the spec that a person has written; None for one that was submitted, in which only options are searched.
        problems: those found so far.
    """
    lines: Lines = cache(_lines_of)
    found = [] if tree is None else list(_in_tree(tree, "", "", lines, only_options=path is None))
    texts = {one.credential.text for one in found}
    if path is not None:
        found += [one for one in _in_lines(path, lines(str(path))) if one.credential.text not in texts]
    if not found:
        return
    problems += [_problem(one) for one in found]
    shown = {}
    for one in found:
        for text in (one.credential.text, repr(one.credential.text)[1:-1], *one.credential.text.splitlines()):
            if len(text) >= MIN_SECRET:
                shown[text] = "…" if "characters" in one.credential.shown else one.credential.shown
    problems[:] = [_without(problem, shown) for problem in problems]


def _in_tree(node: Node, path: str, name: str, lines: Lines, *, only_options: bool) -> Iterator[_Found]:
    if isinstance(node, Mapping):
        for key, value in node.values.items():
            yield from _in_tree(value, f"{path}.{key}" if path else key, key, lines, only_options=only_options)
    elif isinstance(node, Sequence):
        for index, item in enumerate(node.items):
            yield from _in_tree(
                item, f"{path}[{index}]", _option(node, index) or name, lines, only_options=only_options
            )
    elif node.location.is_option or not only_options:
        for credential in _in_scalar(node, path, name):
            yield _Found(credential, path, _exact(node.location, credential.text, lines))


def _option(node: Sequence, index: int) -> str:
    """Return the option before item `index` of a command that is a list, whose value the item is; "" for no option."""
    before = node.items[index - 1] if index else None
    is_option = isinstance(before, Scalar) and before.text.startswith("-") and "=" not in before.text
    return before.text.lstrip("-") if is_option and isinstance(before, Scalar) else ""


def _in_scalar(node: Scalar, path: str, name: str) -> list[Credential]:
    found = list(find_credentials(name, node.text))
    if path != WEBHOOK_FIELD or "$" in node.text or not node.text.startswith(("http://", "https://")):
        return found
    if found or is_random(node.text.partition("://")[2]):
        secret = found[0].text if found else node.text
        return [Credential(secret, "an address with a secret part", "…", WEBHOOK_REMEDY)]
    return []


def _lines_of(source: str) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(source).read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return []


def _exact(location: Location, secret: str, lines: Lines) -> Location:
    """Return where `secret` stands in the value at `location`, which may be a block of lines."""
    if location.is_option:
        return location
    secret = secret.partition("\n")[0]
    for number, line in enumerate(lines(location.source)[location.line - 1 :], location.line):
        if (column := line.find(secret, location.column - 1 if number == location.line else 0)) >= 0:
            return Location(location.source, number, column + 1, line)
    return location


def _in_lines(path: Path, lines: list[str]) -> Iterator[_Found]:
    """Yield the keys with a form of their own in a file, in comments and in text that is no YAML too."""
    for number, line in enumerate(lines, 1):
        for credential in find_formed(line):
            location = Location(str(path), number, line.index(credential.text) + 1, line)
            yield _Found(credential, "", location)


def _problem(found: _Found) -> Problem:
    credential = found.credential
    seen = f" ({credential.shown})" if credential.shown != "…" else ""
    message = f"looks like {credential.what}{seen}, and a spec must hold none: {credential.remedy}"
    return Problem(found.location, found.path, message)


def _without(problem: Problem, shown: dict[str, str]) -> Problem:
    """Return `problem` with `shown` in place of each secret."""

    def cleaned(text: str) -> str:
        for secret in sorted(shown, key=len, reverse=True):
            text = text.replace(secret, shown[secret])
        return text

    location = msgspec.structs.replace(
        problem.location, source=cleaned(problem.location.source), text=cleaned(problem.location.text)
    )
    return Problem(location, cleaned(problem.path), cleaned(problem.message), cleaned(problem.allowed))
