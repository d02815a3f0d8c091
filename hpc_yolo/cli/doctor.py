"""`hpc-yolo doctor`: report what this site does to an interrupted job, and whether the run survives that."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import msgspec
from rich.table import Table
from rich.text import Text

from hpc_yolo.cli.options import read_overrides, spec_options
from hpc_yolo.cluster.process import clean_environment, current_environment
from hpc_yolo.cluster.sbatch_variables import with_requests
from hpc_yolo.cluster.this_site import site_lookup
from hpc_yolo.doctor import Finding, Report, examine
from hpc_yolo.monitor.console import data_console
from hpc_yolo.spec.load import load_spec
from hpc_yolo.spec.schema import Spec

PIPE_COLUMNS = 200
STYLES = {"ok": "green", "note": "cyan", "warning": "bold yellow"}


@click.command()
@spec_options(required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def doctor(spec_path: Path | None, assignments: tuple[str, ...], as_json: bool, **shortcuts: str | None) -> None:
    """Read this site's Slurm settings and report what happens to an interrupted job.

    The report says how many seconds the job has from the first signal to SIGKILL, whether a save fits (at most 40 % of
    them, as measured by the run of SPEC, or by one beside it), whether and how soon the job starts again, what to
    change in the spec where work would be lost, and whether OpenCV finds its libraries on this machine. Without SPEC it
    covers all partitions. Nothing is changed, and it takes seconds even if Slurm does not answer.

    \b
    ok       as it should be
    note     information
    warning  work would be lost, or the run could not resume

    Exit code: 0 without warnings, 4 with one, 5 if Slurm does not answer.

    \b
    hpc-yolo doctor                                   all partitions
    hpc-yolo doctor spec.yaml --partition preempt     would this run survive there?
    hpc-yolo doctor spec.yaml --json | jq '.findings[] | select(.level == "warning")'
    """
    overrides = read_overrides(assignments, shortcuts)
    if spec_path is None and overrides:
        raise click.UsageError("options change a spec, and there is none: hpc-yolo doctor SPEC ...")
    spec = None
    if spec_path is not None:
        spec = _with_requests(load_spec(spec_path, overrides, site_lookup(for_slurm=True)))
    report = examine(spec)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(report), indent=2))
    else:
        _print(report)
    if report.exit_code:
        sys.exit(report.exit_code)


def _with_requests(spec: Spec) -> Spec:
    """Return `spec` with what the SBATCH_ variables of this shell request for its jobs."""
    variables = clean_environment(current_environment())
    return msgspec.structs.replace(spec, cluster=with_requests(spec.cluster, variables))


def _print(report: Report) -> None:
    console = data_console(pipe_columns=PIPE_COLUMNS)
    console.print(report.slurm, highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in report.findings:
        table.add_row(Text(finding.level, style=STYLES[finding.level]), finding.what, _message(finding))
    console.print(table)


def _message(finding: Finding) -> Text:
    message = Text("; ".join(part for part in (finding.seen, finding.why) if part))
    if finding.advice:
        message.append(f"\n-> {finding.advice}", style="bold" if finding.level == "warning" else "")
    return message
