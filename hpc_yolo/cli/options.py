"""The spec argument and the options that change it, shared by the commands that take a spec."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from hpc_yolo.core.errors import SpecError
from hpc_yolo.spec.load import Override

Command = TypeVar("Command", bound=Callable[..., object])

# Options that people know from sbatch, and the field of the spec that each one sets.
SHORTCUTS = {
    "--name": ("name", "Name of the run."),
    "--nodes": ("cluster.nodes", "Number of nodes."),
    "--gpus-per-node": ("cluster.gpus_per_node", "GPUs, and so tasks, of each node; 0 trains on CPUs."),
    "--partition": ("cluster.partition", "Partition of the cluster."),
    "--account": ("cluster.account", "Account to charge."),
    "--qos": ("cluster.qos", "Quality of service."),
    "--time": ("cluster.time", "Time limit, hh:mm:ss or d-hh:mm:ss."),
}


def spec_options(*, required: bool = True) -> Callable[[Command], Command]:
    """Give a command a SPEC argument and the options of `SHORTCUTS` and --set; `read_overrides` reads them."""

    def decorate(command: Command) -> Command:
        command = click.option(
            "--set",
            "assignments",
            metavar="FIELD=VALUE",
            multiple=True,
            help="Set any field of the spec, such as train.epochs=10. May be repeated.",
        )(command)
        for name, (field, sentence) in reversed(SHORTCUTS.items()):
            command = click.option(name, metavar="VALUE", help=f"{sentence} [{field}]")(command)
        metavar = "SPEC" if required else "[SPEC]"
        return click.argument("spec_path", metavar=metavar, required=required, type=click.Path(path_type=Path))(command)

    return decorate


def read_overrides(assignments: tuple[str, ...], shortcuts: Mapping[str, str | bool | None]) -> list[Override]:
    """Return the options of the command line as overrides, with the text that names them in errors.

    Raises:
        SpecError: a --set without a field or without an equals sign.
    """
    overrides = []
    for option, (field, _) in SHORTCUTS.items():
        value = shortcuts.get(option.removeprefix("--").replace("-", "_"))
        if isinstance(value, str):
            overrides.append(Override(field, value, f"{option} {value}"))
    for assignment in assignments:
        field, equals, value = assignment.partition("=")
        if not equals or not field:
            raise SpecError(f"--set {assignment}: write FIELD=VALUE", hint="such as --set train.epochs=10")
        overrides.append(Override(field, value, f"--set {assignment}"))
    return overrides


class NumberRange(click.FloatRange):
    """A range of finite numbers: every comparison with NaN is false, so that `FloatRange` accepts it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return `value` as a number in the range."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


MAX_SIDE_PIXELS = 2**15
SIDE = click.IntRange(1, MAX_SIDE_PIXELS)
FRACTION = NumberRange(0, 1)
POSITIVE = click.IntRange(1)
SIDES = click.option(
    "--imgsz",
    "--img",
    "--img-size",
    metavar="PIXELS",
    help="Side, or height and width. [default: as trained, else 640]",
)


def is_number(text: str) -> bool:
    """Return True for the digits of a whole number; Python converts at most 4,300 of them."""
    return text.isdecimal() and len(text) < 10


def read_sides(written: str) -> tuple[int, int]:
    """Return height and width in pixels from the value of --imgsz: one side, or both with a comma.

    Raises:
        click.UsageError: it is neither.
    """
    sides = written.split(",")
    if len(sides) > 2 or not all(is_number(side) and 0 < int(side) <= MAX_SIDE_PIXELS for side in sides):
        raise click.UsageError(
            f"--imgsz {written}: must be one side in pixels, or height and width; at most {MAX_SIDE_PIXELS}"
        )
    return int(sides[0]), int(sides[-1])


def whole_strides(sides: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return `sides` rounded up to multiples of the model's stride; print a message if they change."""
    rounded = (-(-sides[0] // stride) * stride, -(-sides[1] // stride) * stride)
    if rounded != sides:
        click.echo(f"--imgsz {sides[0]},{sides[1]}: not multiples of {stride}; using {list(rounded)}", err=True)
    return rounded
