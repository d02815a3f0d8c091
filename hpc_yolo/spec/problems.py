"""What is wrong with a spec, and where: one `Problem` each, printed as file:line:column with the line and a caret."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where something was written: a file with line and column (from 1), or an option of the command line."""

    source: str
    line: int = 0
    column: int = 0
    text: str = ""

    @property
    def is_option(self) -> bool:
        return self.line == 0


@dataclass(frozen=True)
class Problem:
    """One mistake. `path` is the dotted field, '' for the whole file."""

    place: Place
    path: str
    message: str
    allowed: str = ""

    def __str__(self) -> str:
        field = f"{self.path}: " if self.path else ""
        if self.place.is_option:
            lines = [f"{self.place.source}: {field}{self.message}"]
        else:
            lines = [f"{self.place.source}:{self.place.line}:{self.place.column}: {field}{self.message}"]
            if self.place.text:
                lines += [f"    {self.place.text}", f"    {' ' * (self.place.column - 1)}^"]
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        return "\n".join(lines)


def format_problems(problems: list[Problem]) -> str:
    """All problems in the order of the file, those of the command line last."""
    ordered = sorted(problems, key=lambda problem: (problem.place.is_option, problem.place.line, problem.place.column))
    count = "1 mistake" if len(ordered) == 1 else f"{len(ordered)} mistakes"
    return "\n".join([f"{count} in the spec", *map(str, ordered)])
