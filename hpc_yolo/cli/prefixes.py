"""Options as people type them from memory: unique beginnings, underscores for dashes, several values in a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import click


class GuideCommand(click.Command):
    """A command whose long options may be shortened as long as they stay unique, and spelled with underscores.

    Options named in `many` take several numbers in a row, `--freeze 0 1 2`, besides a list with commas, and those in
    `many_words` several of their words.
    """

    many: tuple[str, ...] = ()
    many_words: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._joined([self._whole(ctx, word) for word in args]))

    def _whole(self, ctx: click.Context, word: str) -> str:
        """`word` with the full name of the option that it begins."""
        typed, equals, value = word.partition("=")
        if not typed.startswith("--") or typed == "--":
            return word
        name = typed.replace("_", "-")
        options = {option: parameter for parameter in self.get_params(ctx) for option in parameter.opts}
        if name in options:
            return name + equals + value
        matching = {option: parameter for option, parameter in options.items() if option.startswith(name)}
        if len({id(parameter) for parameter in matching.values()}) > 1:
            raise click.UsageError(f"{typed} may be {', '.join(sorted(matching))}", ctx)
        return next(iter(matching)) + equals + value if matching else word

    def _joined(self, words: list[str]) -> list[str]:
        """The numbers or words after an option that takes many, as one word."""
        joined: list[str] = []
        for word in words:
            option = joined[-2] if len(joined) > 1 else ""
            if (word.isdigit() and option in self.many) or word in self.many_words.get(option, ()):
                joined[-1] += f",{word}"
            else:
                joined.append(word)
        return joined
