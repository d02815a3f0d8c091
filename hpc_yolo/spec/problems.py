"""Problems of a spec, printed as file:line:column with the line and a caret."""

from __future__ import annotations

import msgspec


class Location(msgspec.Struct, frozen=True):
    """A line and column (from 1) of a file, or an option of the command line."""

    source: str
    line: int = 0
    column: int = 0
    text: str = ""

    @property
    def is_option(self) -> bool:
        """The problem is in a command-line option, not in the file."""
        return self.line == 0


class Problem(msgspec.Struct, frozen=True):
    """One problem.

    Attributes:
        path: the dotted field, '' for the whole file.
    """

    location: Location
    path: str
    message: str
    allowed: str = ""

    @property
    def headline(self) -> str:
        """Location, field and message in one line."""
        column = "" if self.location.is_option else f":{self.location.line}:{self.location.column}"
        field = f"{self.path}: " if self.path else ""
        return f"{self.location.source}{column}: {field}{self.message}"

    def __str__(self) -> str:
        lines = [self.headline]
        if not self.location.is_option and self.location.text:
            before = self.location.text[: self.location.column - 1].ljust(self.location.column - 1)
            blank = "".join("\t" if character == "\t" else " " for character in before)
            lines += [f"    {self.location.text}", f"    {blank}^"]
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        return "\n".join(lines)


class Finding(msgspec.Struct, frozen=True):
    """A problem that a rule finds in a field, from its value and the values of the fields that it `needs`."""

    field: str
    message: str
    allowed: str
    needs: tuple[str, ...] = ()


def format_problems(problems: list[Problem], what: str = "the spec") -> str:
    """Return the text of all problems in the order of their files, those of the command line last."""
    sources = list(dict.fromkeys(problem.location.source for problem in problems))

    def order(problem: Problem) -> tuple[bool, int, int, int]:
        location = problem.location
        in_files = 0 if location.is_option else sources.index(location.source)
        return location.is_option, in_files, location.line, location.column

    ordered = sorted(problems, key=order)
    count = "1 mistake" if len(ordered) == 1 else f"{len(ordered)} mistakes"
    return "\n".join([f"{count} in {what}", *map(str, ordered)])
