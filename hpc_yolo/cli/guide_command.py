"""A command whose options are written as in the YOLOv5 guide: abbreviated, with underscores, with lists of values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import click


class GuideCommand(click.Command):
    """A command whose long options may be abbreviated while they stay unique, and written with underscores.

    Attributes:
        number_lists: options that take several numbers in a row, `--freeze 0 1 2`, besides a list with commas.
        choice_lists: options that take several of their choices in a row, and these choices.
    """

    number_lists: tuple[str, ...] = ()
    choice_lists: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse `args` with full option names and each list as one argument."""
        return super().parse_args(ctx, self._with_joined_lists([self._with_full_name(ctx, arg) for arg in args]))

    def _with_full_name(self, ctx: click.Context, argument: str) -> str:
        """Return `argument` with the full name of the option that it abbreviates."""
        typed, equals, value = argument.partition("=")
        if not typed.startswith("--") or typed == "--":
            return argument
        name = typed.replace("_", "-")
        options = {option: parameter for parameter in self.get_params(ctx) for option in parameter.opts}
        if name in options:
            return name + equals + value
        matching = {option: parameter for option, parameter in options.items() if option.startswith(name)}
        if len({id(parameter) for parameter in matching.values()}) > 1:
            raise click.UsageError(f"{typed} is ambiguous: {', '.join(sorted(matching))}", ctx)
        return next(iter(matching)) + equals + value if matching else argument

    def _with_joined_lists(self, arguments: list[str]) -> list[str]:
        """Return `arguments` with the values after an option that takes a list as one argument with commas."""
        joined: list[str] = []
        for argument in arguments:
            option = joined[-2] if len(joined) > 1 else ""
            is_number = argument.isdigit() and option in self.number_lists
            if is_number or argument in self.choice_lists.get(option, ()):
                joined[-1] += f",{argument}"
            else:
                joined.append(argument)
        return joined
