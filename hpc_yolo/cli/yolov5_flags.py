"""The flags of the YOLOv5 guide, and the field of the spec that each one sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click

from hpc_yolo.spec.checkpoint import CheckpointSpec
from hpc_yolo.spec.fields import description_of, field_types
from hpc_yolo.spec.hyperparameters import is_name
from hpc_yolo.spec.load import Override
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.sweep_search import EVOLVE
from hpc_yolo.spec.train import TrainSpec
from hpc_yolo.spec.validate import model_names

Command = TypeVar("Command", bound=Callable[..., object])

STRIDE = 32


@dataclass(frozen=True)
class Flag:
    """One option and the field that it sets.

    Attributes:
        value: the value that a switch, or an option without its value, sets.
        help: its help text, where the description of the field would mislead.
    """

    names: tuple[str, ...]
    field: str
    metavar: str | None = None
    value: str | None = None
    help: str | None = None

    @property
    def parameter(self) -> str:
        """Name of the parameter to which click assigns the value."""
        return self.names[0].removeprefix("--").replace("-", "_")


VALUES = (
    Flag(("--weights",), "weights", "FILE", help="A published name, a file, or '' for none. [default: yolov5s.pt]"),
    Flag(("--cfg",), "model", "MODEL"),
    Flag(("--data",), "data", "YAML"),
    Flag(("--hyp",), "train.hyp", "HYP"),
    Flag(("--epochs",), "train.epochs", "N"),
    Flag(("--batch-size", "--batch"), "train.batch", "N"),
    Flag(("--imgsz", "--img", "--img-size"), "train.imgsz", "PIXELS"),
    Flag(("--device",), "train.device", "cpu|0|0,1"),
    Flag(("--optimizer",), "train.optimizer", "NAME"),
    Flag(("--workers",), "train.workers", "N"),
    Flag(("--label-smoothing",), "train.label_smoothing", "FRACTION"),
    Flag(("--patience",), "train.patience", "EPOCHS"),
    Flag(("--freeze",), "train.freeze", "N or N,N,…"),
    Flag(("--save-period",), "train.save_period", "EPOCHS"),
    Flag(("--seed",), "train.seed", "N"),
    Flag(("--cache",), "train.cache", "[ram]", value="ram"),
    Flag(("--project",), "output", "DIRECTORY"),
    Flag(
        ("--evolve",),
        "sweep.search.trials",
        "[N]",
        value="300",
        help="Train N times (300) with other hyperparameters, which follow from the results so far.",
    ),
)
SWITCHES = (
    Flag(("--rect",), "train.rect", value="true"),
    Flag(("--multi-scale",), "train.multi_scale", value="true"),
    Flag(("--image-weights",), "train.image_weights", value="true"),
    Flag(("--single-cls",), "train.single_cls", value="true"),
    Flag(("--sync-bn",), "train.sync_bn", value="true"),
    Flag(("--cos-lr",), "train.cos_lr", value="true"),
    Flag(("--data-parallel",), "train.data_parallel", value="true"),
    Flag(("--noval",), "train.val_every", value="0", help="Evaluate after the last epoch only."),
    Flag(("--nosave",), "checkpoint.every_epochs", value="0", help="Save only at a signal and at the end."),
    Flag(("--noautoanchor",), "train.autoanchor", value="false", help="Keep the anchors even if they do not fit."),
    Flag(("--noplots",), "train.plots", value="false", help="Draw no charts and images after the training."),
)
# What flags set besides their own field, by parameter.
FURTHER = {
    "nosave": Override("checkpoint.every_s", "null", "--nosave"),
    "evolve": Override("sweep.search.space", EVOLVE, "--evolve"),
}
# Flags of the guide that are accepted without an effect, and the reason that is printed.
WITHOUT_EFFECT = {
    "--bucket": "runs are not uploaded",
    "--entity": "runs are not uploaded",
    "--upload-dataset": "datasets are not uploaded",
    "--bbox-interval": "runs are not uploaded",
    "--artifact-alias": "runs are not uploaded",
    "--local-rank": "",  # older launchers pass it; the rank comes from their variables
}
# Flags of the guide that are not supported, and what to do instead.
REFUSED = {
    "--quad": "not supported; use a larger --imgsz",
}


def guide_options(command: Command) -> Command:
    """Add the guide's flags to `command`; `read_flags` reads them."""
    for name in (*REFUSED, *WITHOUT_EFFECT):
        command = click.option(name, metavar="VALUE", is_flag=False, flag_value="", hidden=True)(command)
    for flag in reversed(SWITCHES):
        command = click.option(*flag.names, is_flag=True, help=_help(flag))(command)
    for flag in reversed(VALUES):
        optional = {} if flag.value is None else {"is_flag": False, "flag_value": flag.value}
        command = click.option(*flag.names, flag.parameter, metavar=flag.metavar, help=_help(flag), **optional)(command)  # type: ignore[arg-type]
    return command


def read_flags(typed: dict[str, str | bool | None]) -> list[Override]:
    """Return the flags of the command line as overrides of the spec's fields.

    Raises:
        UsageError: a flag is not supported.
    """
    for name, instead in REFUSED.items():
        if typed[_parameter(name)] is not None:
            raise click.UsageError(f"{name}: {instead}")
    for name, why in WITHOUT_EFFECT.items():
        if typed[_parameter(name)] is not None and why:
            click.echo(f"{name} has no effect: {why}", err=True)
    overrides = []
    for flag in VALUES:
        value = typed[flag.parameter]
        if value is not None:
            assert isinstance(value, str)
            overrides.append(Override(flag.field, _written(flag.field, value), f"{flag.names[0]} {value}"))
    for flag in SWITCHES:
        if typed[flag.parameter]:
            assert flag.value is not None
            overrides.append(Override(flag.field, flag.value, flag.names[0]))
    return overrides + [further for name, further in FURTHER.items() if typed[name]]


def _written(field: str, value: str) -> str:
    """Return `value`, in the form of the guide, in the form of the spec's YAML."""
    if field == "train.device":
        return json.dumps(value or "auto")
    if field == "train.freeze":
        return f"[{value}]" if "," in value else value
    if field == "train.hyp":
        name = Path(value).stem.removeprefix("hyp.").lower()
        return json.dumps(name if is_name(name) and not Path(value).is_file() else value)
    if field == "model":
        name = Path(value).stem
        return json.dumps(name if name in model_names() and not Path(value).is_file() else value)
    if field == "train.imgsz" and value.isdigit() and int(value) % STRIDE:
        above = (int(value) // STRIDE + 1) * STRIDE
        click.echo(f"--imgsz {value} is not a multiple of {STRIDE}; using {above}", err=True)
        return str(above)
    return json.dumps(value) if field in ("weights", "data", "output") else value


def _help(flag: Flag) -> str:
    section, _, name = flag.field.rpartition(".")
    kinds = {"": Spec, "train": TrainSpec, "checkpoint": CheckpointSpec}
    text = flag.help or description_of(field_types(kinds[section])[name])
    return f"{text} [{flag.field}{f'={flag.value}' if flag.metavar is None else ''}]"


def _parameter(name: str) -> str:
    return name.removeprefix("--").replace("-", "_")
