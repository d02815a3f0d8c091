"""Plan and submission of a sweep: new trials, those that have not finished, and the arrays of jobs that run them."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from hpc_yolo.cluster.jobs import alive_jobs, current_jobs
from hpc_yolo.cluster.process import current_environment
from hpc_yolo.cluster.queueing import adopt_lost_jobs
from hpc_yolo.cluster.site import DEFAULT_ARRAY_SIZE
from hpc_yolo.core.errors import ClusterError, NameTakenError, RunError, SchedulerUnavailable
from hpc_yolo.core.files import exclusive_lock, make_directory, write_atomic
from hpc_yolo.launch.plan import ArrayTasks, Plan, make_plan
from hpc_yolo.launch.submit import queue
from hpc_yolo.launch.sweep_state import is_finished, task_states
from hpc_yolo.resilience.run_over import dependency_after
from hpc_yolo.runs.directory import RunDirectory, current_umask
from hpc_yolo.runs.index import add_to_index, state_directory
from hpc_yolo.runs.submissions import Submission
from hpc_yolo.runs.sweep import SweepDirectory, TrialRecord, array_and_task, trial_name
from hpc_yolo.spec.fingerprint import learned_fields
from hpc_yolo.spec.load import dump_spec, load_resolved_spec
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.trials import Values, run_key, trials_of, value_at
from hpc_yolo.spec.varied_fields import OVERRIDES, varied_fields


@dataclass(frozen=True)
class SweepPlan:
    """All decisions about one submission of a sweep.

    Attributes:
        spec: of the sweep.
        job: plan of the job of a trial.
        known: the trials of earlier submissions.
        new: those of this one.
        unfinished: known ones that neither wait nor run nor have finished; they start again.
        num_active: known ones that wait or run.
        num_finished: known ones that have nothing more to do.
        active_arrays: ids of the arrays of jobs of which a task waits or runs.
        version: of the sweep, when the plan was made.
    """

    sweep: SweepDirectory
    spec: Spec
    job: Plan
    known: list[TrialRecord]
    new: list[TrialRecord]
    unfinished: list[TrialRecord]
    num_active: int
    num_finished: int
    active_arrays: list[str]
    version: tuple[int, int] | None

    @property
    def to_start(self) -> list[TrialRecord]:
        """The trials that this submission starts."""
        return [*self.unfinished, *self.new]

    @property
    def is_limited(self) -> bool:
        """True if arrays of jobs follow each other: Slurm has a limit for each, and more trials than that would run."""
        limit = None if self.spec.sweep is None else self.spec.sweep.limit
        is_exceeded = limit is not None and self.num_active + len(self.to_start) > limit
        return is_exceeded and "dependency" not in self.spec.cluster.sbatch

    @property
    def jobs(self) -> list[Plan]:
        """The plan of each array of jobs; [] where none is needed."""
        limit = None if self.spec.sweep is None else self.spec.sweep.limit
        arrays = [
            ArrayTasks(self.sweep, number, tuple(array_and_task(trial.name)[1] for trial in group), limit)
            for number, group in itertools.groupby(self.to_start, lambda trial: array_and_task(trial.name)[0])
        ]
        return [replace(self.job, run=self.sweep.array(array.number), array=array) for array in arrays]

    def decisions(self) -> list[tuple[str, str]]:
        """Return (subject, decision) pairs, the first lines of a dry run."""
        counts = {"new": len(self.new), "to start again": len(self.unfinished)}
        counts |= {"active": self.num_active, "finished": self.num_finished}
        parts = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
        lines = [("sweep", str(self.sweep.path)), ("trials", f"{len(self.known) + len(self.new)}: {parts}")]
        for index, job in enumerate(self.jobs if self.job.uses_slurm else []):
            assert job.array is not None
            waits = ", when those before it have ended" if self.is_limited and (index or self.active_arrays) else ""
            lines.append(("array", f"{job.run.name}: tasks {job.array.option}{waits}"))
        return lines


def plan_sweep(spec: Spec, environ: Mapping[str, str] | None = None) -> SweepPlan:
    """Return the plan of a submission of `spec`, which has a sweep.

    Raises:
        RunError: the directory has another sweep, or a run.
        SchedulerUnavailable: Slurm does not answer, and trials of an earlier submission may be active.
    """
    sweep = sweep_directory(spec)
    version, known = sweep.version, sweep.trials()
    unfinished, num_active, active_arrays = _state(sweep, known)
    num_finished = len(known) - len(unfinished) - num_active
    job = make_plan(msgspec.structs.replace(spec, sweep=None), environ, run=sweep.array(1))
    spec = msgspec.structs.replace(spec, cluster=job.spec.cluster)  # with what variables of the shell request
    plan = SweepPlan(sweep, spec, job, known, [], unfinished, num_active, num_finished, active_arrays, version)
    return with_new_trials(plan)


def with_new_trials(plan: SweepPlan) -> SweepPlan:
    """Return `plan` with the trials of its spec that the sweep does not have yet, divided over arrays."""
    keys = {trial.key for trial in plan.known}
    added = [(values, key) for values, key in _wanted(plan.spec) if key not in keys]
    first = 1 + max((array_and_task(trial.name)[0] for trial in plan.known), default=0)
    size = DEFAULT_ARRAY_SIZE if plan.job.settings is None else plan.job.settings.max_array_size
    new = [
        TrialRecord(trial_name(first + index // size, index % size), dict(values), key)
        for index, (values, key) in enumerate(added)
    ]
    return replace(plan, new=new)


def _wanted(spec: Spec) -> Iterator[tuple[Values, str]]:
    """Yield the values of each trial of `spec`, and what identifies it: its number in a search."""
    is_search = spec.sweep is not None and spec.sweep.search is not None
    for number, trial in enumerate(trials_of(spec)):
        yield trial.values, f"draw {number}" if is_search else run_key(spec, trial.values)


def sweep_directory(spec: Spec) -> SweepDirectory:
    """Return the directory of the sweep of `spec`.

    Raises:
        RunError: it has a run or other files, a sweep of another spec, or belongs to another user.
    """
    path = Path(spec.output).absolute() / spec.name
    RunDirectory(path).require_own()
    sweep = SweepDirectory(path)
    if not sweep.exists:
        if path.is_dir() and any(file != sweep.lock for file in path.iterdir()):
            raise RunError(
                f"{path} exists, and is no sweep",
                hint="give the sweep another name with --set name=NAME, or remove that directory",
            )
        return sweep
    before, now = _common_fields(load_resolved_spec(sweep.spec)), _common_fields(spec)
    changed = sorted(field for field in before.keys() | now.keys() if before.get(field) != now.get(field))
    if changed:
        differences = ", ".join(f"{field}: {before.get(field)} -> {now.get(field)}" for field in changed)
        raise RunError(
            f"{path} has a sweep of another spec ({differences})",
            hint="set them as they were and vary them in the section sweep, or give the new sweep another name with "
            "--set name=NAME",
        )
    return sweep


def submit_sweep(plan: SweepPlan) -> list[Submission]:
    """Create the directory of the sweep and queue its arrays; return the record of each.

    Raises:
        NameTakenError, RunError: see `only_submission`.
        ClusterError: Slurm refuses; where nothing is queued, the sweep is as it was before.
        SchedulerUnavailable: Slurm does not answer; see `queueing.queue_script`.
    """
    done: list[Submission] = []
    with only_submission(plan):
        prepare_sweep(plan)
        try:
            for job in plan.jobs:
                make_directory(job.run.path)
                make_directory(job.run.jobs)
                before = [submission.job_id for submission in done[-1:]] or plan.active_arrays
                options = [f"--dependency={dependency_after(before)}"] if plan.is_limited and before else []
                done.append(queue(job, options))
        except SchedulerUnavailable:
            raise
        except ClusterError:
            if not done:
                _take_back(plan)
            raise
    return done


@contextlib.contextmanager
def only_submission(plan: SweepPlan) -> Iterator[None]:
    """Hold the sweep of `plan` against other submissions: their trials would have the same names.

    Raises:
        NameTakenError: another submission goes on, or has changed the sweep since the plan was made.
        RunError: the directory cannot be written.
    """
    sweep = plan.sweep
    with _writing(sweep):
        sweep.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(exclusive_lock(sweep.lock, timeout_s=0))
        except TimeoutError:
            hint = f"see hpc-yolo sweep status {sweep.word}, and submit again when that command has ended"
            raise NameTakenError(f"{sweep.path}: another command submits it or runs its trials", hint=hint) from None
        except OSError:  # a file system without locks
            pass
        if sweep.version != plan.version:
            raise NameTakenError(f"{sweep.path}: another command has just submitted this sweep", hint="submit it again")
        yield


@contextlib.contextmanager
def _writing(sweep: SweepDirectory) -> Iterator[None]:
    """Report errors of the file system inside the block as those of the directory of `sweep`."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{sweep.path}: cannot be written: {error.strerror}", hint="choose another directory with --set output=DIR"
        ) from error


def prepare_sweep(plan: SweepPlan) -> None:
    """Write the spec and the trials of a sweep, and make the directories in which Slurm writes their output.

    Raises:
        RunError: the directory cannot be written.
    """
    sweep, for_group = plan.sweep, plan.spec.output_mode == "group"
    with _writing(sweep):
        sweep.path.parent.mkdir(parents=True, exist_ok=True)
        sweep.path.mkdir(mode=0o700, exist_ok=True)
        sweep.path.chmod(stat.S_ISGID | 0o750 & ~current_umask() if for_group else 0o700)
        write_atomic(sweep.spec, dump_spec(plan.spec))
        for trial in plan.to_start:  # the directory of one that is to start again may have been removed
            run = sweep.trial(trial.name)
            make_directory(run.path)
            make_directory(run.jobs)
        sweep.write_trials([*plan.known, *plan.new])
        add_to_index(state_directory(current_environment()), sweep)


def _take_back(plan: SweepPlan) -> None:
    """Remove what `submit_sweep` has made for the new trials."""
    sweep = plan.sweep
    arrays = {sweep.array(array_and_task(trial.name)[0]).path for trial in plan.new}
    if plan.known:
        sweep.write_trials(plan.known)
    else:
        sweep.remove()
    for trial in plan.new:
        run = sweep.trial(trial.name)
        for directory in (run.jobs, run.path):
            with contextlib.suppress(OSError):
                directory.rmdir()
    for path in arrays:
        shutil.rmtree(path, ignore_errors=True)


def _state(sweep: SweepDirectory, known: Sequence[TrialRecord]) -> tuple[list[TrialRecord], int, list[str]]:
    """Return (trials that neither wait nor run nor have finished, number of active ones, ids of active arrays)."""
    if not known:
        return [], 0, []
    for array in sweep.arrays():
        adopt_lost_jobs(array)
    rest = [trial for trial in known if not is_finished(sweep.trial(trial.name))]
    tasks = task_states(sweep) if rest else {}
    arrays = sorted({state.job_id.partition("_")[0] for state in tasks.values()})
    others = [sweep.trial(trial.name) for trial in rest if trial.name not in tasks]
    active = {*tasks, *(job.run.name for job in alive_jobs([job for run in others for job in current_jobs(run)]))}
    unfinished = [trial for trial in rest if trial.name not in active]
    return unfinished, len(rest) - len(unfinished), arrays


def _common_fields(spec: Spec) -> dict[str, object]:
    """Return what all trials of `spec` share: what they learn from, how long they train, and the space of a search.

    A trial is known by the values in which it differs from these, or in a search by its number.
    """
    fields = learned_fields(msgspec.structs.replace(spec, sweep=None))
    lasting = (name for name in varied_fields() if name.startswith("train.") and not name.startswith(OVERRIDES))
    fields |= {name: value_at(spec, name) for name in lasting}
    if spec.sweep is not None and spec.sweep.search is not None:
        ranges = msgspec.to_builtins(spec.sweep.search.ranges)
        fields |= {f"sweep.search.space.{name}": kind for name, kind in ranges.items()}
    return fields
