"""`hpc-yolo train`: this process becomes one task of a run, for srun, torchrun and plain shells."""

from __future__ import annotations

from pathlib import Path

import click

from hpc_yolo.cli.options import read_overrides, spec_options


@click.command(short_help="Be one task of a run, under srun or torchrun.")
@spec_options
def train(spec_path: Path, assignments: tuple[str, ...], **shortcuts: str | None) -> None:
    """Run this process as one task of the run that SPEC describes.

    Rank and world size come from torchrun's variables, else from the Slurm step's; without either it trains alone.
    Most people want `hpc-yolo submit`, which starts the tasks by itself.
    """
    from hpc_yolo.cluster.process import ProcessInfo, current_environment
    from hpc_yolo.engine.task import run_task
    from hpc_yolo.runs.directory import RunDirectory
    from hpc_yolo.spec.load import load_spec
    from hpc_yolo.submit.prepare import prepare_run

    spec = load_spec(spec_path, read_overrides(assignments, shortcuts))
    run = RunDirectory(Path(spec.output).absolute() / spec.name)
    if ProcessInfo.from_env(current_environment()).rank == 0:
        prepare_run(run, spec)
    run_task(run, spec)
