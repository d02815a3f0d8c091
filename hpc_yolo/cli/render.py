"""`hpc-yolo render`: a spec as a plain sbatch script."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from hpc_yolo.cli.options import read_overrides, spec_options


@click.command()
@spec_options()
def render(spec_path: Path, assignments: tuple[str, ...], **shortcuts: str | None) -> None:
    """Print the sbatch script that trains SPEC: hpc-yolo render spec.yaml > job.sbatch && sbatch job.sbatch

    Its tasks run `hpc-yolo train SPEC` with the same options, so a changed spec counts when the job starts.
    """
    from hpc_yolo import sbatch
    from hpc_yolo.runs.directory import RunDirectory
    from hpc_yolo.runs.save_times import read_save_times
    from hpc_yolo.spec.load import load_spec

    overrides = read_overrides(assignments, shortcuts)
    spec = load_spec(spec_path, overrides)
    words = [str(spec_path.absolute())]
    for override in overrides:
        words += ["--set", f"{override.path}={override.text}"]
    # Paths in a spec may be relative to where it was checked; the job starts in the same folder.
    python = [sys.executable, "-u", "-m", "hpc_yolo"]
    task, afterwards = shlex.join([*python, "train", *words]), shlex.join([*python, "after-job", *words])
    save_times = read_save_times(RunDirectory(Path(spec.output) / spec.name))
    click.echo(sbatch.script(spec, task, afterwards, log=f"{spec.name}-%j.log", save_times=save_times), nl=False)
