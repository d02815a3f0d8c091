"""Runs described by YOLOv5's flags instead of a file: the resulting spec, its name, and the run to resume."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import msgspec

from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.core.errors import RunError, SpecError
from hpc_yolo.core.units import counted
from hpc_yolo.launch.local_gpus import visible_gpus
from hpc_yolo.launch.prepare import spec_to_resume
from hpc_yolo.launch.run_names import agreed_name
from hpc_yolo.runs.attempts import Attempts
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.events import AttemptEnded
from hpc_yolo.runs.journal import read_events
from hpc_yolo.spec.device import read_device
from hpc_yolo.spec.load import Override, check_spec
from hpc_yolo.spec.problems import format_problems
from hpc_yolo.spec.schema import ClusterSpec, Spec

DEFAULTS = {"name": "exp", "output": "runs/train", "weights": "yolov5s.pt"}
RUNS_DIRECTORY = Path("runs")


def guide_spec(
    overrides: list[Override], process: ProcessInfo, *, exist_ok: bool, environ: Mapping[str, str] | None = None
) -> Spec:
    """Return the spec that the flags describe, with a new name unless `exist_ok`.

    Raises:
        SpecError: the flags are invalid; the message has all problems.
    """
    given = {override.path: override for override in overrides}
    if "data" not in given:
        raise SpecError(
            "--data is missing", hint="give a dataset YAML; create an example with: hpc-yolo data synth datasets/shapes"
        )
    defaults = [Override(field, f'"{value}"', "the default") for field, value in DEFAULTS.items() if field not in given]
    device = _device(given.get("train.device"))
    cluster = tasks_of(device, process, visible_gpus(environ if environ is not None else current_environment()))
    if "train.data_parallel" in given:
        cluster = msgspec.structs.replace(cluster, tasks_per_node=1, gpus_per_node=min(cluster.gpus_per_node, 1))
    fields = {"executor": cluster.executor, "nodes": cluster.nodes, "gpus_per_node": cluster.gpus_per_node}
    fields["tasks_per_node"] = cluster.num_tasks_per_node
    tasks = [Override(f"cluster.{field}", str(value), f"--device {device}") for field, value in fields.items()]
    # A requeued job uses the copies of the files in its run directory.
    spec, problems = check_spec(None, [*defaults, *tasks, *overrides], reads_files=process.attempt == 1)
    if problems:
        raise SpecError(format_problems(problems))
    if spec.train.sync_bn and spec.cluster.world_size == 1:
        raise SpecError(
            "--sync-bn: needs several tasks, and there is one",
            hint="select several GPUs, such as --device 0,1, or omit --sync-bn",
        )
    if spec.name == "cfg" and spec.model:
        spec = msgspec.structs.replace(spec, name=Path(spec.model).stem)
    name = spec.name if exist_ok else agreed_name(Path(spec.output), spec.name, process)
    return msgspec.structs.replace(spec, name=name)


def _device(written: Override | None) -> str:
    """Return the device in the form of the spec; auto for one that the spec will refuse."""
    try:
        return "auto" if written is None else read_device(written.text.strip('"'))
    except ValueError:
        return "auto"


def tasks_of(device: str, process: ProcessInfo, gpus: tuple[str, ...]) -> ClusterSpec:
    """Return nodes, tasks and GPUs: those of the launcher, or on this machine one task for each GPU of `device`."""
    if process.launcher != "single":
        gpus_per_node = 0 if device == "cpu" or not gpus else process.local_world_size
        tasks = process.local_world_size
        return ClusterSpec(nodes=process.num_nodes, gpus_per_node=gpus_per_node, tasks_per_node=tasks)
    num_gpus = {"cpu": 0, "auto": len(gpus)}.get(device, len(device.split(",")))
    return ClusterSpec(executor="local", gpus_per_node=num_gpus, tasks_per_node=max(num_gpus, 1))


def resumed_spec(where: str, overrides: list[Override]) -> Spec:
    """Return the spec of the run to resume: its directory or a file in it; "" is the newest run below runs/.

    Raises:
        RunError: there is no such run, it is finished, or its directory was renamed.
        SpecError: the spec or an override is invalid, or an override names another directory.
    """
    run = _run_around(Path(where)) if where else newest_run(RUNS_DIRECTORY)
    spec = spec_to_resume(run, overrides)
    end = Attempts(read_events(run.journal)).last_end
    if end is not None and end.outcome == AttemptEnded.FINISHED and end.epoch >= spec.train.epochs:
        raise RunError(
            f"{run.path} is finished: {counted(end.epoch, 'epoch')}; there is nothing to resume",
            hint=f"train it longer with --resume {run.path} --epochs {spec.train.epochs * 2}",
        )
    return spec


def newest_run(directory: Path) -> RunDirectory:
    """Return the run below `directory` with the newest checkpoint.

    Raises:
        RunError: there is none.
    """
    runs = [RunDirectory(path.parent.parent) for path in directory.glob("**/checkpoints/last.safetensors")]
    saved = [(run.last.stat().st_mtime, run.path) for run in runs if run.exists]
    if not saved:
        raise RunError(f"--resume: no run below {directory.absolute()} has a checkpoint", hint="give one: --resume RUN")
    return RunDirectory(max(saved)[1])


def _run_around(path: Path) -> RunDirectory:
    for directory in itertools.chain([path], path.parents):
        if RunDirectory(directory).exists:
            return RunDirectory(directory.absolute())
    kind = "a file of another program" if path.suffix in (".pt", ".pth") else "not a run directory, and not in one"
    hint = f"start a new run with its weights: --weights {path}" if path.is_file() else None
    raise RunError(f"--resume: {path} is {kind}", hint=hint)
