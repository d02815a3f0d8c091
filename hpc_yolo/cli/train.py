"""`hpc-yolo train`: the command line of the YOLOv5 guide, and one task of a run under srun or torchrun."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from hpc_yolo.cli.guide_command import GuideCommand
from hpc_yolo.cli.options import read_overrides, spec_options
from hpc_yolo.cli.submit import carry_out, fetch_with_progress
from hpc_yolo.cli.yolov5_flags import guide_options, read_flags
from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.core.errors import NameTakenError, RunError, SpecError
from hpc_yolo.launch.plan import make_plan, require_no_sweep
from hpc_yolo.launch.preflight import preflight
from hpc_yolo.launch.prepare import is_continuation, prepare_run, require_same_training, run_of, submitted_spec
from hpc_yolo.launch.run_names import require_filled_name
from hpc_yolo.launch.weights import needed_weights, with_located_weights
from hpc_yolo.launch.yolov5_flags import guide_spec, resumed_spec
from hpc_yolo.resilience.lease import require_free
from hpc_yolo.resilience.requeue import is_extra_start
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.sweep import run_in_job
from hpc_yolo.spec.load import LoadedSpec, Override, load_spec
from hpc_yolo.spec.notify import CANCELLED
from hpc_yolo.spec.schema import Spec
from hpc_yolo.training.start import require_submitted_version, start_task


class TrainCommand(GuideCommand):
    """The guide's command line, in which --freeze takes several numbers."""

    number_lists = ("--freeze",)


@click.command(cls=TrainCommand)
@spec_options(required=False)
@guide_options
@click.option("--exist-ok", is_flag=True, help="Use <project>/<name> even if it exists, and resume the run in it.")
@click.option(
    "--resume",
    metavar="[RUN]",
    is_flag=False,
    flag_value="",
    help="Resume the run in this directory, or the newest one below runs/.",
)
def train(
    spec_path: Path | None, assignments: tuple[str, ...], exist_ok: bool, resume: str | None, **typed: str | bool | None
) -> None:
    """Train with the flags of the YOLOv5 guide, or as one task of the run of SPEC, a file or a run directory.

    \b
    one GPU           hpc-yolo train --data coco.yaml --weights yolov5s.pt --img 640 --device 0
    several GPUs      hpc-yolo train … --device 0,1          one task a GPU, started by this command
    torchrun          torchrun --nproc_per_node 2 -m hpc_yolo train … --device 0,1
    several machines  torchrun --nnodes 2 --node_rank R --master_addr … -m hpc_yolo train …
    Slurm             hpc-yolo submit SPEC, or srun hpc-yolo train SPEC
    hyperparameters   hpc-yolo train … --evolve 50   one trial after the other; hpc-yolo sweep best RUN

    Every flag sets the field of the spec in brackets. Without SPEC the run directory is <project>/<name>, by default
    runs/train/exp, or exp2 where that exists. Under torchrun or srun this process is one task; otherwise tasks are
    started on this machine. With SPEC and without a launcher this process trains alone.
    """
    process = ProcessInfo.from_env(current_environment())
    overrides = read_overrides(assignments, typed) + read_flags(typed)
    if spec_path is not None and spec_path.is_dir():
        _train_prepared_run(spec_path, overrides, process)
        return
    existing = run_of(spec_path, overrides) if spec_path is not None and resume is None else None
    if existing is not None and is_continuation(existing, process):
        _train_prepared_run(existing.path, [], process)
        return
    spec = with_located_weights(_read_spec(spec_path, overrides, resume, process, exist_ok=exist_ok))
    require_filled_name(spec)
    if spec.sweep is not None and spec_path is None and process.launcher == "single":
        from hpc_yolo.cli.submit_sweep import submit_trials  # which few runs need

        submit_trials(LoadedSpec(spec, {}, None), dry_run=False, follow=True, wait=False, parallel=1)
        return
    require_no_sweep(spec)
    run = RunDirectory(Path(spec.output).absolute() / spec.name)
    if is_continuation(run, process):
        _train_prepared_run(run.path, [], process)
    elif process.launcher == "single" and spec_path is None and not spec.train.data_parallel:
        is_named = exist_ok or resume is not None
        _start_tasks(spec, None if is_named else partial(guide_spec, overrides, process, exist_ok=False))
    else:
        _run_as_task(run, spec, process)


def _read_spec(
    spec_path: Path | None, overrides: list[Override], resume: str | None, process: ProcessInfo, *, exist_ok: bool
) -> Spec:
    """Return the spec of the run to resume, the one in `spec_path`, or the one that flags alone describe."""
    if resume is not None:
        return resumed_spec(resume, overrides)
    if spec_path is not None:
        return load_spec(spec_path, overrides)
    return guide_spec(overrides, process, exist_ok=exist_ok)


def _train_prepared_run(path: Path, overrides: list[Override], process: ProcessInfo) -> None:
    """Run as a task of the run that `submit` has prepared in directory `path`."""
    run = run_in_job(path, current_environment())
    if not run.exists:
        raise RunError(f"{path} is not a run directory", hint="name a spec; hpc-yolo submit SPEC creates the directory")
    if overrides:
        raise SpecError(
            f"{overrides[0].origin}: the spec of {run.path} is fixed",
            hint=f"hpc-yolo submit {shlex.quote(str(run.spec))} changes it",
        )
    require_submitted_version(run)  # first: another version may not read the spec
    spec = submitted_spec(run)
    if not _is_finished(run, process):
        _train_and_notify(run, spec, process)


def _is_finished(run: RunDirectory, process: ProcessInfo) -> bool:
    """Return True if the job of this task has finished `run` in an earlier attempt, and print that."""
    if not is_extra_start(run, process):
        return False
    click.echo(f"{run.name} is finished; attempt {process.attempt} of job {process.job_id} has nothing to do")
    return True


def _start_tasks(spec: Spec, next_spec: Callable[[], Spec] | None) -> None:
    """Start one process a GPU on this machine and follow them until they end.

    Args:
        next_spec: returns `spec` under the next free name, should another command take this one; None: it is fixed.
    """
    plan = make_plan(spec)
    preflight(plan.spec, plan.run, for_slurm=False)
    click.echo(f"run directory  {plan.run.path}\nworld size     {plan.world_size}")
    try:
        carry_out(plan, follow=True, wait=False)
    except NameTakenError:
        if next_spec is None:
            raise
        _start_tasks(with_located_weights(next_spec()), next_spec)


def _run_as_task(run: RunDirectory, spec: Spec, process: ProcessInfo) -> None:
    """Run as a task of `run`, which rank 0 prepares."""
    if _is_finished(run, process):
        return
    if process.rank == 0:
        is_new = not run.exists
        if not is_new:
            require_free(run, process)
        require_same_training(run, spec)
        fetch_with_progress(needed_weights(spec, run))
        prepare_run(run, spec, is_new=is_new)
    _train_and_notify(run, spec, process)


def _train_and_notify(run: RunDirectory, spec: Spec, process: ProcessInfo) -> None:
    """Train as a task; rank 0 sends the messages that nothing else can.

    Without Slurm nothing else sees the end of the run. A job that a person cancels loses its batch script at once.
    """
    notify = spec.notify
    is_in_slurm = process.launcher == "slurm" or ProcessInfo.alone(current_environment()).job_id is not None
    if notify is None or process.rank != 0 or (is_in_slurm and CANCELLED not in notify.events):
        start_task(run, spec)
        return

    from hpc_yolo.cli import notices  # 20 ms, of no use without messages

    if not is_in_slurm:
        with notices.local_messages(run, spec, notify, None):
            start_task(run, spec)
        return
    try:
        start_task(run, spec)
    finally:
        notices.cancelled_message(run, notify, process)
