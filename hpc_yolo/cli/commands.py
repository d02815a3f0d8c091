"""The commands there are, by what they are about. Each is imported when typed, and the list of them needs none."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import NamedTuple

import click


class Listed(NamedTuple):
    """Where a command is written, and what the list of commands says of it."""

    module: str
    attribute: str
    sentence: str


SECTIONS: dict[str, dict[str, Listed]] = {
    "Train": {
        "submit": Listed("submit", "submit", "Train a spec: a Slurm job, or processes here."),
        "check": Listed("check", "check", "Print everything that is wrong with a spec."),
        "render": Listed("render", "render", "Print a spec as a plain sbatch script."),
        "doctor": Listed("doctor", "doctor", "Say what an interrupted job has time for here."),
        "train": Listed("train", "train", "Train with the guide's flags; a task under srun or torchrun."),
    },
    "Runs": {
        "status": Listed("status", "status", "Show the runs there are and how they stand."),
        "follow": Listed("follow", "follow", "Show a run's progress until its job ends."),
        "logs": Listed("logs", "logs", "Print what a run's ranks printed."),
        "report": Listed("report", "report", "Make one HTML file of everything about runs."),
        "list": Listed("runs", "list_runs", "Print the directories of your runs."),
        "cancel": Listed("runs", "cancel", "End the jobs of runs; they save first."),
        "requeue": Listed("runs", "requeue", "Put the jobs of runs back into the queue."),
        "resume": Listed("runs", "resume", "Start runs again that have ended."),
        "rm": Listed("runs", "rm", "Remove runs with their checkpoints."),
    },
    "Networks": {
        "val": Listed("val", "val", "Evaluate a network: figures by class, speed, COCO's JSON."),
        "predict": Listed("predict", "predict", "Find objects on images, videos, cameras, streams."),
        "detect": Listed("predict", "predict", "The same, as people know it."),
        "export": Listed("export", "export", "Write a network as ONNX or TorchScript, and check it."),
        "models": Listed("models", "models", "Compare the networks: size, FLOPs, published mAP and speed."),
        "weights": Listed("weights", "weights", "Fetch published weights; look into and convert .pt files."),
    },
    "Around them": {
        "data": Listed("data", "data", "Make datasets."),
        "schema": Listed("check", "schema", "Print the JSON schema of a spec, for editors."),
        "completion": Listed("completion", "completion", "Print the completion script for a shell."),
    },
}
# For the scripts that we write, not for people.
UNLISTED = {"after-job": Listed("after_job", "after_job", "The last line of a batch script.")}
COMMANDS = {name: listed for section in SECTIONS.values() for name, listed in section.items()}


class LazyGroup(click.Group):
    """The group of `COMMANDS`; login nodes are slow, so of their modules only the one that is needed is read."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """The names, in the order of `SECTIONS`."""
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """The command called `name`; None if there is none."""
        listed = COMMANDS.get(name) or UNLISTED.get(name)
        if listed is None:
            return None
        command = getattr(import_module(f"hpc_yolo.cli.{listed.module}"), listed.attribute)
        assert isinstance(command, click.Command)
        command.short_help = listed.sentence
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that `args` begin with; an unknown one names the nearest."""
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        if near and args[0] not in COMMANDS | UNLISTED:
            context.fail(f"No such command '{args[0]}'. Did you mean '{near[0]}'?")
        return super().resolve_command(context, args)

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, each with a line for each of its commands."""
        width = max(map(len, COMMANDS))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), listed.sentence) for name, listed in commands.items()])
