"""What is wrong with a spec, and where: one `Problem` each, printed as file:line:column with the line and a caret."""

from __future__ import annotations

import msgspec


class Place(msgspec.Struct, frozen=True):
    """Where something was written: a file with line and column (from 1), or an option of the command line."""

    source: str
    line: int = 0
    column: int = 0
    text: str = ""

    @property
    def is_option(self) -> bool:
        """The problem is in a command-line option, not in the file."""
        return self.line == 0


class Problem(msgspec.Struct, frozen=True):
    """One mistake. `path` is the dotted field, '' for the whole file."""

    place: Place
    path: str
    message: str
    allowed: str = ""

    @property
    def headline(self) -> str:
        """Place, field and message in one line."""
        column = "" if self.place.is_option else f":{self.place.line}:{self.place.column}"
        field = f"{self.path}: " if self.path else ""
        return f"{self.place.source}{column}: {field}{self.message}"

    def __str__(self) -> str:
        lines = [self.headline]
        if not self.place.is_option and self.place.text:
            before = self.place.text[: self.place.column - 1].ljust(self.place.column - 1)
            blank = "".join("\t" if character == "\t" else " " for character in before)
            lines += [f"    {self.place.text}", f"    {blank}^"]
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        return "\n".join(lines)


class Finding(msgspec.Struct, frozen=True):
    """What a rule finds wrong with a field, from its value and those of the fields that it `needs`."""

    field: str
    message: str
    allowed: str
    needs: tuple[str, ...] = ()


def format_problems(problems: list[Problem]) -> str:
    """All problems in the order of the file, those of the command line last."""
    ordered = sorted(problems, key=lambda problem: (problem.place.is_option, problem.place.line, problem.place.column))
    count = "1 mistake" if len(ordered) == 1 else f"{len(ordered)} mistakes"
    return "\n".join([f"{count} in the spec", *map(str, ordered)])
