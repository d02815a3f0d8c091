"""The start of a trial: its run directory, made by the job that trains it, before the tasks."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.cluster.queueing import unconfirmed
from hpc_yolo.core.errors import RunError
from hpc_yolo.launch.prepare import prepare_run
from hpc_yolo.resilience.requeue import slurm_job_id
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import add_submission, all_submissions
from hpc_yolo.runs.sweep import SweepDirectory, run_in_job, sweep_of
from hpc_yolo.spec.load import load_resolved_spec
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.sweep_search import SearchSpec, Value
from hpc_yolo.spec.trials import with_values
from hpc_yolo.sweeps.budget import taken_gpu_hours
from hpc_yolo.sweeps.outcomes import outcomes_of
from hpc_yolo.sweeps.search import ask, tell, untold


def started_trial(path: Path) -> RunDirectory:
    """Return the run that this job trains: `path`, or the trial of this task of the array in `path`, made if missing.

    Raises:
        RunError: the sweep has no such trial, or its directory cannot be written.
        SpecError, DataError: a file that the spec names cannot be read.
    """
    run = run_in_job(path, current_environment())
    sweep = sweep_of(run)
    if sweep is None or run.path == path.absolute():
        return run
    if not run.exists:
        prepare_run(run, trial_spec(sweep, run))
    _record_job(run, RunDirectory(path.absolute()))
    return run


def spent_budget(sweep: SweepDirectory) -> str:
    """Return a sentence if the trials of `sweep` have taken its budget, so that no further one starts; else "".

    Raises:
        SpecError: the spec of the sweep cannot be read.
    """
    section = load_resolved_spec(sweep.spec).sweep
    if section is None or section.budget_gpu_hours is None:
        return ""
    taken = taken_gpu_hours(sweep.trial(trial.name) for trial in sweep.trials())
    if taken < section.budget_gpu_hours:
        return ""
    return f"the trials have taken {taken:.2f} of {section.budget_gpu_hours:g} GPU hours (sweep.budget_gpu_hours)"


def trial_spec(sweep: SweepDirectory, run: RunDirectory) -> Spec:
    """Return the spec of the trial `run`; in a search the first call draws its values.

    Raises:
        RunError: the sweep has no such trial, or its study cannot be used.
        SpecError: its spec cannot be read.
        InstallationError: the search needs Optuna.
    """
    trial = next((trial for trial in sweep.trials() if trial.name == run.name), None)
    if trial is None:
        raise RunError(f"{sweep.path} has no trial {run.name}", hint=f"hpc-yolo sweep table {sweep.word}")
    spec = load_resolved_spec(sweep.spec)
    values = trial.values
    if spec.sweep is not None and spec.sweep.search is not None:
        values = sweep.drawn_values(run.name) or _draw(sweep, spec.sweep.search, run)
    return msgspec.structs.replace(with_values(spec, values), sweep=None, name=run.name, output=str(sweep.path))


def _draw(sweep: SweepDirectory, search: SearchSpec, run: RunDirectory) -> dict[str, Value]:
    """Draw the values of the trial `run`, after the results of all trials that have ended."""
    tell(search, sweep.path, outcomes_of(sweep.trial(name) for name in untold(search, sweep.path)))
    values = ask(search, sweep.path, run.name)
    sweep.write_drawn_values(run.name, values)
    return values


def _record_job(run: RunDirectory, array: RunDirectory) -> None:
    """Record this job as one of `run`, as the submission of the array has it; a successor in a chain is known already.

    Its time is that of the array: the trial has waited since.
    """
    job_id = slurm_job_id(ProcessInfo.alone(current_environment()))
    if job_id is None or any(submission.job_id == job_id for submission in all_submissions(run)):
        return
    number = job_id.partition("_")[0]
    own = [submission for submission in all_submissions(array) if submission.job_id == number]
    # A job may start before the command that has submitted it has recorded its id.
    if submission := next(iter(own or unconfirmed(array)), None):
        add_submission(run, msgspec.structs.replace(submission, job_id=job_id))
