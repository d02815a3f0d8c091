"""What a stage runs: the command line of this package with the options of its step, or the shell lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from hpc_yolo.data.dataset import InlineDataset
from hpc_yolo.data.dataset_source import DATASET, source_of_run
from hpc_yolo.launch.stage_container import command_in_container, needs_container
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.run_end import RunEnd
from hpc_yolo.spec.fields import field_infos
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.section import Section
from hpc_yolo.spec.stages import BEST, LAST, ExportStage, PredictStage, Stage, ValStage

# Fields that are no option of their own; see `_val`, `_predict` and `_export`.
_PLACED = frozenset({"split", "weights", "source", "include"})


def stage_command(run: RunDirectory, spec: Spec, name: str, stage: Stage) -> list[str]:
    """Return the command line of the stage `name`, in the container of the run where it needs that."""
    if stage.shell is not None:
        return ["bash", "-e", "-c", stage.shell]
    arguments = _arguments(run, spec, name, stage)
    if needs_container(spec, stage):
        return command_in_container(run, spec, stage, arguments)
    return [sys.executable, "-m", "hpc_yolo", *arguments]


def shell_variables(run: RunDirectory, name: str, end: RunEnd) -> dict[str, str]:
    """Return the environment variables of shell lines."""
    cause = "finished" if end.is_finished else end.cause
    return {"RUN": str(run.path), "NAME": run.name, "STAGE": name, "CAUSE": cause}


def _arguments(run: RunDirectory, spec: Spec, name: str, stage: Stage) -> list[str]:
    if stage.val is not None:
        return ["val", *_val(run, spec, stage.val), *_results(run, name)]
    if stage.predict is not None:
        return ["predict", *_predict(run, spec, stage.predict, _results(run, name))]
    if stage.export is not None:
        return ["export", *_export(run, stage.export)]
    return ["report", str(run.path)]


def _dataset_yaml(run: RunDirectory, spec: Spec) -> Path:
    """Return the dataset YAML of the run: its copy, which the first attempt makes, or that of the spec."""
    source = source_of_run(run, spec.data)
    return run.inputs / DATASET if isinstance(source, InlineDataset) else source


def _val(run: RunDirectory, spec: Spec, step: ValStage) -> list[str]:
    weights = [str(_weights(run, step.weights))]
    if step.weights not in (BEST, LAST):
        weights = ["--weights", *weights, "--data", str(_dataset_yaml(run, spec))]
        weights += ["--single-cls"] if spec.train.single_cls else []
    return [*weights, "--task", step.split, f"--workers={spec.train.workers}", *_device(spec), *_options(step)]


def _predict(run: RunDirectory, spec: Spec, step: PredictStage, results: list[str]) -> list[str]:
    weights = ["--weights", str(_weights(run, step.weights))]
    return [*weights, *_device(spec), *_options(step), *results, "--", *step.sources]


def _export(run: RunDirectory, step: ExportStage) -> list[str]:
    forms = [argument for form in step.include for argument in ("--include", form)]
    return [str(_weights(run, step.weights)), *forms, *_options(step)]


def _weights(run: RunDirectory, written: str) -> Path:
    return {BEST: run.best, LAST: run.last}.get(written) or Path(written)


def _device(spec: Spec) -> list[str]:
    """Return the option for the device of the training; a job of Slurm sees those that it asked for."""
    return [] if spec.train.device == "auto" else ["--device", spec.train.device.partition(",")[0]]


def _results(run: RunDirectory, name: str) -> list[str]:
    return ["--project", str(run.results), "--name", name, "--exist-ok"]


def _options(step: Section) -> Iterator[str]:
    """Yield the options of the fields that are not at their defaults, which are those of the command."""
    for field in field_infos(type(step)):
        value = getattr(step, field.name)
        if field.name in _PLACED or value == field.default:
            continue
        option = f"--{field.name.replace('_', '-')}"
        yield option if value is True else f"{option}={value}"
