"""The list of commands by section. A command is imported when it is invoked; listing them imports none."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import NamedTuple

import click

from hpc_yolo.core.collector import collector_paused


class Listed(NamedTuple):
    """Module and attribute of a command, and its line in the list of commands."""

    module: str
    attribute: str
    sentence: str


SECTIONS: dict[str, dict[str, Listed]] = {
    "Train": {
        "submit": Listed("submit", "submit", "Train a spec: as a Slurm job, or in processes here."),
        "check": Listed("check", "check", "Check a spec and print every problem."),
        "plan": Listed("plan", "plan", "Estimate time, attempts and start of a run."),
        "render": Listed("render", "render", "Print the sbatch script of a spec."),
        "site": Listed("site", "site", "List, show, check and draft site profiles."),
        "doctor": Listed("doctor", "doctor", "Report what happens to an interrupted job here."),
        "train": Listed("train", "train", "Train with the guide's flags; a task under srun, torchrun."),
    },
    "Runs": {
        "status": Listed("status", "status", "Show the known runs and their state."),
        "follow": Listed("follow", "follow", "Show a run's progress until its job ends."),
        "logs": Listed("logs", "logs", "Print the output of a run's ranks."),
        "report": Listed("report", "report", "Write one HTML file about runs."),
        "track": Listed("track", "track", "Bring runs to wandb, MLflow, TensorBoard, Trackio or CSV."),
        "notify": Listed("notify", "notify", "Send a test message about a run."),
        "list": Listed("list_runs", "list_runs", "Print the directories of your runs."),
        "sweep": Listed("sweep", "sweep", "Show and cancel the trials of a sweep."),
        "cancel": Listed("runs", "cancel", "Cancel the jobs of runs; they save first."),
        "requeue": Listed("runs", "requeue", "Requeue the jobs of runs; they save first."),
        "resume": Listed("resume", "resume", "Submit runs again that have ended."),
        "rm": Listed("runs", "rm", "Remove runs with their checkpoints."),
    },
    "Models": {
        "val": Listed("val", "val", "Evaluate a model: metrics by class, speed, COCO JSON."),
        "predict": Listed("predict", "predict", "Detect objects on images, videos, cameras, streams."),
        "detect": Listed("predict", "predict", "The same as predict."),
        "export": Listed("export", "export", "Write a model as ONNX or TorchScript, and check it."),
        "models": Listed("models", "models", "Compare models: size, FLOPs, published mAP and speed."),
        "weights": Listed("weights", "weights", "Download published weights; show and convert .pt files."),
    },
    "Other": {
        "data": Listed("data", "data", "Create and check datasets."),
        "bench": Listed("bench", "bench", "Measure speed on this machine; compare records; scale over GPUs."),
        "schema": Listed("check", "schema", "Print the JSON schema of a spec, for editors."),
        "completion": Listed("completion", "completion", "Print the completion script for a shell."),
    },
}
# For batch scripts, not for users.
UNLISTED = {
    "start-trial": Listed("start_trial", "start_trial", "The first command of a batch script of a sweep."),
    "before-job": Listed("before_job", "before_job", "The first command of a batch script with a container."),
    "after-job": Listed("after_job", "after_job", "The last command of a batch script."),
    "queue-evaluations": Listed("evaluations", "queue", "Queue jobs that evaluate models, beside the tasks."),
    "evaluate-waiting": Listed("evaluations", "evaluate", "The task of a job that evaluates models."),
    "notify-problems": Listed("notify", "notify_problems", "Report problems of a run, beside its tasks."),
    "track-beside": Listed("track", "track_beside", "Bring a run to its tracker, beside its tasks."),
    "run-stage": Listed("run_stage", "run_stage", "Run a stage after the training in its own job."),
}
COMMANDS = {name: listed for section in SECTIONS.values() for name, listed in section.items()}


class LazyGroup(click.Group):
    """The group of `COMMANDS`. Login nodes are slow, so only the module of the invoked command is imported."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """Return the names in the order of `SECTIONS`."""
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """Return the command `name`; None if there is none."""
        listed = COMMANDS.get(name) or UNLISTED.get(name)
        if listed is None:
            return None
        with collector_paused():
            command = getattr(import_module(f"hpc_yolo.cli.{listed.module}"), listed.attribute)
        assert isinstance(command, click.Command)
        command.short_help = listed.sentence
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` begin with; the error for an unknown one names the nearest."""
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        if near and args[0] not in COMMANDS | UNLISTED:
            context.fail(f"No such command '{args[0]}'. Did you mean '{near[0]}'?")
        return super().resolve_command(context, args)

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections with a line for each command."""
        width = max(map(len, COMMANDS))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), listed.sentence) for name, listed in commands.items()])
