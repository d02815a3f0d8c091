"""`hpc-yolo notify`: messages to people, sent to try them; and the command of batch scripts that reports problems."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hpc_yolo.cli.options import read_overrides
from hpc_yolo.cli.run_argument import complete_run, named_run
from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.cluster.this_site import site_lookup
from hpc_yolo.core.errors import SpecError
from hpc_yolo.launch.beside import run_beside, same_parent
from hpc_yolo.launch.prepare import submitted_spec
from hpc_yolo.notify.message import message_of_test
from hpc_yolo.notify.problems import ProblemWatch, watch_problems
from hpc_yolo.notify.send import send
from hpc_yolo.runs.sweep import SweepDirectory
from hpc_yolo.spec.load import load_resolved_spec, load_spec
from hpc_yolo.spec.schema import Spec

NOT_SENT = 1


@click.group()
def notify() -> None:
    """Send messages about runs to people: the section notify of a spec.

    A run sends one message when it ends, and one for each kind of problem; see docs/notify.md.
    """


@notify.command(short_help="Send a test message by every way of a run or a spec.")
@click.argument("written", metavar="RUN|SPEC", shell_complete=complete_run)
@click.option("--set", "assignments", metavar="FIELD=VALUE", multiple=True, help="Set any field of the spec.")
def test(written: str, assignments: tuple[str, ...]) -> None:
    """Send a test message, from this machine, by every way that the spec names; exit with 1 if one fails.

    Compute nodes may reach less than a login node: srun hpc-yolo notify test RUN tries one.
    """
    name, directory, spec = _spec_of(written, assignments)
    if spec.notify is None:
        raise SpecError(f"{written}: has no notify", hint="add notify: {mail: me@example.org}; docs/notify.md")
    results = send(spec.notify, message_of_test(name, directory), current_environment())
    for way, why in results.items():
        click.echo(f"{way}: {f'not sent: {why}' if why else 'sent'}")
    sys.exit(NOT_SENT if any(results.values()) else 0)


@click.command("notify-problems", hidden=True)
@click.argument("path", metavar="RUN", type=click.Path(path_type=Path))
def notify_problems(path: Path) -> None:
    """Report the problems of RUN to people while the batch script that has started this command runs."""
    is_needed, environ = same_parent(), current_environment()
    run = run_beside(path, environ, is_needed)
    notify = None if run is None else submitted_spec(run).notify
    if run is not None and notify is not None:
        watch = ProblemWatch(run, notify, environ, job_id=ProcessInfo.alone(environ).job_id)
        watch_problems(watch, is_needed=is_needed)


def _spec_of(written: str, assignments: tuple[str, ...]) -> tuple[str, str, Spec]:
    """Return (name, run directory or "", spec) of a run, a sweep or a spec file.

    Raises:
        HpcYoloError: there is neither, or the spec has mistakes.
    """
    overrides = read_overrides(assignments, {})
    if Path(written).is_file():
        spec = load_spec(Path(written), overrides, site_lookup())
        return spec.name, "", spec
    if (sweep := SweepDirectory(Path(written).absolute())).exists:
        return sweep.name, str(sweep.path), load_resolved_spec(sweep.spec, overrides)
    run = named_run(written)
    return run.name, str(run.path), submitted_spec(run, overrides)
