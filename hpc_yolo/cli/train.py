"""`hpc-yolo train`: the guide's command line, and one task of a run under srun or torchrun."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpc_yolo.cli.options import read_overrides, spec_options
from hpc_yolo.cli.prefixes import GuideCommand
from hpc_yolo.cli.yolov5_flags import guide_options, read_flags

if TYPE_CHECKING:
    from hpc_yolo.cluster.process import ProcessInfo
    from hpc_yolo.runs.directory import RunDirectory
    from hpc_yolo.spec.load import Override
    from hpc_yolo.spec.schema import Spec


class TrainCommand(GuideCommand):
    many = ("--freeze",)


@click.command(cls=TrainCommand)
@spec_options(required=False)
@guide_options
@click.option("--exist-ok", is_flag=True, help="Use <project>/<name> as it is, and go on with the run in it.")
@click.option(
    "--resume",
    metavar="[RUN]",
    is_flag=False,
    flag_value="",
    help="Go on with the run in this directory, or with the newest one below runs/.",
)
def train(
    spec_path: Path | None, assignments: tuple[str, ...], exist_ok: bool, resume: str | None, **typed: str | bool | None
) -> None:
    """Train with the flags of the YOLOv5 guide, or as one task of the run that SPEC, or a run directory, describes.

    \b
    one GPU           hpc-yolo train --data coco.yaml --weights yolov5s.pt --img 640 --device 0
    several GPUs      hpc-yolo train … --device 0,1          one task a GPU, by itself
    torchrun          torchrun --nproc_per_node 2 -m hpc_yolo train … --device 0,1
    several machines  torchrun --nnodes 2 --node_rank R --master_addr … -m hpc_yolo train …
    Slurm             hpc-yolo submit SPEC, or srun hpc-yolo train SPEC

    Every flag sets the field of the spec in brackets. Without SPEC the run is <project>/<name>, runs/train/exp unless
    said, exp2 where that is there. Under torchrun or srun this process is one task; otherwise tasks are started on this
    machine. With SPEC and no launcher it trains alone.
    """
    from hpc_yolo.cluster.process import ProcessInfo, current_environment
    from hpc_yolo.launch.prepare import is_continuation, run_of
    from hpc_yolo.launch.weights import with_located_weights
    from hpc_yolo.launch.yolov5_flags import guide_spec, resumed_spec
    from hpc_yolo.runs.directory import RunDirectory
    from hpc_yolo.spec.load import load_spec

    process = ProcessInfo.from_env(current_environment())
    overrides = read_overrides(assignments, typed) + read_flags(typed)
    if spec_path is not None and spec_path.is_dir():
        _train_prepared_run(spec_path, overrides)
        return
    begun = run_of(spec_path, overrides) if spec_path is not None and resume is None else None
    if begun is not None and is_continuation(begun, process):
        _train_prepared_run(begun.path, [])
        return
    if resume is not None:
        spec = resumed_spec(resume, overrides)
    elif spec_path is not None:
        spec = load_spec(spec_path, overrides)
    else:
        spec = guide_spec(overrides, process, exist_ok=exist_ok)
    spec = with_located_weights(spec)
    run = RunDirectory(Path(spec.output).absolute() / spec.name)
    if is_continuation(run, process):
        _train_prepared_run(run.path, [])
        return
    if process.launcher == "single" and spec_path is None and not spec.train.data_parallel:
        _start_tasks(spec)
    else:
        _be_a_task(run, spec, process)


def _train_prepared_run(path: Path, overrides: list[Override]) -> None:
    """Be a task of the run that `submit` has prepared in directory `path`."""
    from hpc_yolo.core.errors import RunError, SpecError
    from hpc_yolo.runs.directory import RunDirectory
    from hpc_yolo.runs.journal import require_format
    from hpc_yolo.spec.load import load_resolved_spec

    run = RunDirectory(path.absolute())
    if not run.exists:
        raise RunError(
            f"{path} is not a run directory", hint="name a spec; hpc-yolo submit SPEC makes the directory of its run"
        )
    if overrides:
        raise SpecError(
            f"{overrides[0].origin}: the spec of {run.path} is fixed", hint=f"hpc-yolo submit {run.spec} changes it"
        )
    require_format(run.journal)
    spec = load_resolved_spec(run.spec)
    if _leave_finished_run(run):
        return

    from hpc_yolo.training.start import start_task

    start_task(run, spec)


def _leave_finished_run(run: RunDirectory) -> bool:
    """Whether this task belongs to an extra start of a job that has finished `run`; says so."""
    from hpc_yolo.cluster.process import ProcessInfo, current_environment
    from hpc_yolo.resilience.requeue import is_extra_start

    process = ProcessInfo.from_env(current_environment())
    if not is_extra_start(run, process):
        return False
    click.echo(f"{run.name} is finished; start {process.attempt} of job {process.job_id} has nothing to do")
    return True


def _start_tasks(spec: Spec) -> None:
    """One process a GPU on this machine, followed to the end."""
    from hpc_yolo.cli.submit import carry_out
    from hpc_yolo.launch.plan import make_plan
    from hpc_yolo.launch.preflight import preflight

    plan = make_plan(spec)
    preflight(plan.spec, plan.run, for_slurm=False)
    click.echo(f"run directory  {plan.run.path}\nworld size     {plan.world_size}")
    carry_out(plan, follow=True, wait=False)


def _be_a_task(run: RunDirectory, spec: Spec, process: ProcessInfo) -> None:
    from hpc_yolo.cli.submit import fetch_with_progress

    if _leave_finished_run(run):
        return

    from hpc_yolo.launch.prepare import prepare_run, require_same_training
    from hpc_yolo.training.start import start_task

    if process.rank == 0:
        require_same_training(run, spec)
        fetch_with_progress(spec.weights)
        prepare_run(run, spec)
    start_task(run, spec)
