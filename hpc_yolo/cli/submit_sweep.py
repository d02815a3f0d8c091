"""The part of `hpc-yolo submit` that submits a sweep."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import click
import msgspec

from hpc_yolo.cli.run_argument import known_runs
from hpc_yolo.cli.submission import (
    NOTICE_S,
    at_site,
    estimate_lines,
    notice_after,
    origin_table,
    print_warnings,
    site_decision,
    start_of,
)
from hpc_yolo.cli.sweep import facts_of
from hpc_yolo.cluster.process import current_environment
from hpc_yolo.core.errors import ClusterError, TrainingError
from hpc_yolo.core.units import counted
from hpc_yolo.launch.preflight import preflight
from hpc_yolo.launch.run_names import require_filled_name
from hpc_yolo.launch.sweep import SweepPlan, only_submission, plan_sweep, submit_sweep, with_new_trials
from hpc_yolo.launch.sweep_here import run_trials_here
from hpc_yolo.launch.trial import spent_budget
from hpc_yolo.launch.weights import with_located_weights
from hpc_yolo.monitor.sweep_facts import NOT_STARTED, STOPPED_EARLY
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.sweep import SweepDirectory, TrialRecord
from hpc_yolo.spec.load import LoadedSpec
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.trials import shown, single_values, value_at, with_values
from hpc_yolo.sweeps.search import untold

FILES = ("model", "data", "weights")  # fields of a trial that name files
SHOWN_TRIALS = 10
POLL_S = 5.0


def submit_trials(loaded: LoadedSpec, *, dry_run: bool, follow: bool, wait: bool, parallel: int) -> None:
    """Submit the sweep of `loaded`: as arrays of Slurm jobs, or trial after trial on this machine.

    Args:
        follow: print the number of trials in each state until all have ended; local ones are always followed.
        wait: the same, silently.
        parallel: trials that run at once on this machine.
    """
    spec = with_located_weights(loaded.spec)
    require_filled_name(spec)
    plan = plan_sweep(spec)
    job, slurm = at_site(plan.job, dry_run=dry_run)
    plan = with_new_trials(replace(plan, job=job))
    answers = slurm is None or slurm.available
    warnings = check_trials(plan, slurm_answers=answers)
    estimate = estimate_lines(plan.job, known_runs, asks_start=False, num_trials=len(plan.to_start))
    for what, decision in [*site_decision(loaded), *plan.decisions(), *job_decisions(plan), *estimate.lines]:
        click.echo(f"{what:14} {decision}")
    print_warnings([*warnings, *estimate.warnings])
    if not plan.to_start:
        click.echo(f"nothing to start; hpc-yolo sweep table {plan.sweep.word}")
    elif dry_run:
        show_dry_run(plan, loaded, slurm_answers=answers)
    elif plan.job.uses_slurm:
        queue_trials(plan)
        if follow or wait:
            with tracker(plan):
                code = wait_for_trials(plan.sweep, click.echo if follow else lambda _line: None)
            sys.exit(code)
    else:
        with only_submission(plan):
            code = run_trials_here(plan, parallel=parallel, is_silent=wait, say=click.echo)
        sys.exit(code)


def check_trials(plan: SweepPlan, *, slurm_answers: bool) -> list[str]:
    """Check the job of the trials and, once for each combination, the files that they name; return warnings.

    Raises:
        RunError: the study of a search is of another space.
        InstallationError: the search needs Optuna.
    """
    if plan.spec.sweep is not None and plan.spec.sweep.search is not None:
        untold(plan.spec.sweep.search, plan.sweep.path)
    place, warnings = plan.sweep.array(0), list[str]()
    for index, spec in enumerate(specs_with_other_files(plan)):
        is_first = index == 0 and plan.job.uses_slurm
        warnings += preflight(spec, place, for_slurm=is_first, slurm_answers=slurm_answers, settings=plan.job.settings)
    return list(dict.fromkeys(warnings))


def specs_with_other_files(plan: SweepPlan) -> Iterator[Spec]:
    """Yield the spec of one trial for each combination of files; of the sweep itself where nothing starts."""
    base = msgspec.structs.replace(plan.job.spec, sweep=None, output=str(plan.sweep.path))
    seen = set()
    sweep = plan.spec.sweep
    drawn = [] if sweep is None or sweep.search is None else single_values(sweep.search)
    for values in [*(trial.values for trial in plan.to_start), *drawn] or [{}]:
        spec = with_values(base, values)
        if (files := tuple(value_at(spec, field) for field in FILES)) not in seen:
            seen.add(files)
            yield spec


def job_decisions(plan: SweepPlan) -> list[tuple[str, str]]:
    """Return the lines of a dry run about the job of one trial."""
    return [(what, decision) for what, decision in plan.job.decisions() if what != "run directory"]


def show_dry_run(plan: SweepPlan, loaded: LoadedSpec, *, slurm_answers: bool) -> None:
    """Print the first trials, and the script of the first array; exit with an error where Slurm would refuse it."""
    for trial in plan.to_start[:SHOWN_TRIALS]:
        click.echo(f"{'trial':14} {described(trial)}")
    if len(plan.to_start) > SHOWN_TRIALS:
        click.echo(f"{'':14} and {len(plan.to_start) - SHOWN_TRIALS} more")
    if not plan.job.uses_slurm:
        return
    first = plan.jobs[0]
    start, is_refused = start_of(first) if slurm_answers else ("not known: Slurm does not answer", False)
    table = origin_table(first, loaded)
    click.echo(f"{'start':14} {start}\n\n{table}\n\n{first.script}", nl=False)
    sys.exit(ClusterError.exit_code if is_refused else 0)


def described(trial: TrialRecord) -> str:
    """Return name and values of `trial` in one line."""
    return f"{trial.name}  {shown(trial.values) or 'its values are drawn when it starts'}"


def queue_trials(plan: SweepPlan) -> None:
    """Queue the arrays of `plan` and print what follows."""
    with notice_after(NOTICE_S, "waiting for sbatch; Ctrl-C gives up"):
        submissions = submit_sweep(plan)
    jobs = ", ".join(submission.job_id for submission in submissions)
    click.echo(
        f"queued {counted(len(plan.to_start), 'trial')} as {'array' if len(submissions) == 1 else 'arrays'} {jobs}\n"
        f"  summary:     hpc-yolo sweep status {plan.sweep.word}\n"
        f"  all trials:  hpc-yolo sweep table {plan.sweep.word}"
    )


@contextlib.contextmanager
def tracker(plan: SweepPlan) -> Iterator[None]:
    """Bring the trials of a sweep that is followed to their tracker, where this command is to start it."""
    tracking = plan.spec.tracking
    if tracking is None or tracking.where == "job":
        yield
        return

    from hpc_yolo.cli.tracker_process import tracker_process  # of no use without a tracker

    def has_ended() -> bool:
        facts, warning = facts_of(plan.sweep.path)
        return not warning and not facts.is_under_way

    with tracker_process(RunDirectory(plan.sweep.path), tracking, current_environment(), has_ended):
        yield


def wait_for_trials(sweep: SweepDirectory, say: Callable[[str], None]) -> int:
    """Wait until no trial of `sweep` waits or runs; return 0, or where one has not finished the code of a failed run.

    One that has not started counts as failed, unless the budget is spent.

    Args:
        say: prints the number of trials in each state, when it changes.
    """
    shown = ""
    while True:
        facts, warning = facts_of(sweep.path)
        line = warning or ", ".join(f"{number} {state}" for state, number in facts.counts.items())
        if line != shown:
            say(f"{sweep.name}: {line}")
            shown = line
        if not warning and not facts.is_under_way:
            rest = facts.counts.keys() - {"done", STOPPED_EARLY}
            if not rest or (rest == {NOT_STARTED} and spent_budget(sweep)):
                return 0
            if NOT_STARTED in rest:
                number = counted(facts.counts[NOT_STARTED], "trial")
                say(f"{number} did not start; the output of a trial is in {sweep.path}/TRIAL/jobs")
            return TrainingError.exit_code
        time.sleep(POLL_S)
