"""Plan of a submission: executor, number of tasks, sbatch script. A plan changes nothing; a dry run prints it."""

from __future__ import annotations

import itertools
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from hpc_yolo.cluster import sbatch, scheduler, site
from hpc_yolo.cluster.container_checks import require_no_container
from hpc_yolo.cluster.process import clean_environment, current_environment
from hpc_yolo.cluster.sbatch_variables import split_variables, with_requests
from hpc_yolo.cluster.site import RequeueChoice, SiteSettings
from hpc_yolo.core.errors import ClusterError, RunError, SpecError
from hpc_yolo.core.units import counted
from hpc_yolo.core.variables import variables_in
from hpc_yolo.launch.container_job import container_decisions, task_command, with_runtime
from hpc_yolo.launch.local_gpus import chosen_gpus, local_tasks, visible_gpus
from hpc_yolo.launch.node_data import names_file_of_nodes
from hpc_yolo.launch.prepare import require_same_training
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.save_times import SaveTimes, read_save_times
from hpc_yolo.runs.sweep import TASK_DIGITS, SweepDirectory
from hpc_yolo.spec.data import OFF
from hpc_yolo.spec.notify import PROBLEM
from hpc_yolo.spec.paths import has_variables
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.validate import cluster_findings
from hpc_yolo.spec.yaml_tree import control_characters

LAST_CHECKPOINT = "continues from its last checkpoint"


@dataclass(frozen=True)
class ArrayTasks:
    """The trials of a sweep that one array of jobs runs.

    Attributes:
        numbers: of its tasks, in ascending order.
        limit: how many run at once; None for no limit.
    """

    sweep: SweepDirectory
    number: int
    numbers: tuple[int, ...]
    limit: int | None = None

    @property
    def option(self) -> str:
        """The tasks as sbatch takes them, such as 0-99%8."""
        limit = "" if self.limit is None else f"%{self.limit}"
        return ",".join(_spans(self.numbers)) + limit

    @property
    def log(self) -> str:
        """File for the output of each job: %a is the number of a task, %A that of the array."""
        return f"{str(self.sweep.path).replace('%', '%%')}/{self.number}-%{TASK_DIGITS}a/jobs/%A_%a.log"


@dataclass(frozen=True)
class Plan:
    """All decisions about one submission.

    Attributes:
        executor: slurm, local or debug.
        why: how the executor was chosen, one sentence.
        continues: the run exists already.
        local_gpus: GPUs of this machine that a local run uses, as in CUDA_VISIBLE_DEVICES.
        save_times: measured in this run so far.
        variables: SBATCH_ variables of the shell that apply to the job.
        ignored_variables: those that the spec overrides.
        requeue: how a Slurm job continues after an interruption; None where Slurm was not queried.
        has_data_on_nodes: the dataset YAML exists on the nodes only.
        array: trials of a sweep, of which each task of the job's array runs one; `run` is the directory of the array.
        settings: of the site; None where Slurm was not queried, or did not answer.
    """

    spec: Spec
    run: RunDirectory
    executor: str
    why: str
    num_nodes: int
    tasks_per_node: int
    gpus_per_node: int
    continues: bool
    local_gpus: tuple[str, ...] = ()
    save_times: SaveTimes | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    ignored_variables: Mapping[str, str] = field(default_factory=dict)
    requeue: RequeueChoice | None = None
    has_data_on_nodes: bool = False
    array: ArrayTasks | None = None
    settings: SiteSettings | None = None

    @property
    def uses_slurm(self) -> bool:
        """True for a Slurm job, False for a run that trains on this machine."""
        return self.executor == "slurm"

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.num_nodes * self.tasks_per_node

    @property
    def script(self) -> str | None:
        """Text of the sbatch script; None for other executors."""
        if not self.uses_slurm:
            return None
        # Tasks read everything else from the run directory, so that it does not depend on the job id.
        path = str(self.run.path)
        task = ["-u", "-m", "hpc_yolo", "train", path]
        after_job = ["-m", "hpc_yolo", "after-job", path]
        writable = self.run if self.array is None else RunDirectory(self.array.sweep.path)
        command, container = task_command(self.spec, writable, self.python, task)
        before = [*(["start-trial"] if self.array else []), *([] if container is None else ["before-job"])]
        # A bare name is resolved in the PATH that setup defines, which is not known after a failed setup.
        sure_python = self.python if "/" in self.python else sys.executable
        return sbatch.script(
            self.spec.name,
            self.spec.cluster,
            command,
            shlex.join([self.python, *after_job]),
            log=self.array.log if self.array else f"{str(self.run.jobs).replace('%', '%%')}/%j.log",
            save_times=self.save_times,
            setup_record=self.run.setup_record,
            after_failed_setup=shlex.join([sure_python, *after_job]),
            container=container,
            before=" && ".join(shlex.join([self.python, "-m", "hpc_yolo", name, path]) for name in before) or None,
            beside=[shlex.join([self.python, "-m", "hpc_yolo", name, path]) for name in self._beside],
            array=self.array.option if self.array else None,
        )

    @property
    def _beside(self) -> list[str]:
        """Names of the commands that run beside the tasks of a job."""
        reports = self.spec.notify is not None and PROBLEM in self.spec.notify.events
        return [
            *(["queue-evaluations"] if self.spec.validate == "aside" else []),
            *(["notify-problems"] if reports else []),
            *(["track-beside"] if self.spec.tracking is not None and self.spec.tracking.where == "job" else []),
        ]

    @property
    def python(self) -> str:
        """Python interpreter of the tasks, or of the batch script where the tasks run in a container."""
        return self.spec.cluster.python if self.uses_slurm and self.spec.cluster.python else sys.executable

    @property
    def sbatch_options(self) -> list[str]:
        """Options of sbatch's command line: those that the spec leaves to the site."""
        if self.requeue is None or self.spec.cluster.requeue != "auto":
            return []
        return sbatch.option_arguments(sbatch.requeue_options(self.requeue.mode))

    def decisions(self) -> list[tuple[str, str]]:
        """Return (subject, decision) pairs, the lines of a dry run."""
        train = self.spec.train
        port = "free port of this machine" if not self.uses_slurm else "derived from the job id, in 10000-32767"
        nodes, tasks = counted(self.num_nodes, "node"), counted(self.tasks_per_node, "task")
        gpus = f"{counted(self.gpus_per_node, 'GPU')} per node" if self.gpus_per_node else "CPUs only"
        batch = f"{counted(train.batch, 'image')} per step, {train.batch // self.world_size} on each rank"
        chosen = "the submitting interpreter" if self.python == sys.executable else "set by cluster.python"
        if not self.uses_slurm and self.spec.cluster.python is not None:
            chosen += "; cluster.python is for Slurm jobs"
        if self.uses_slurm and self.spec.cluster.used_container is not None:
            chosen += "; runs the batch script, outside of the container"
        state = "has no checkpoint yet" if self.continues else "new"
        return [
            ("run directory", f"{self.run.path} ({LAST_CHECKPOINT if self.run.last.exists() else state})"),
            ("executor", f"{self.executor}: {self.why}"),
            ("python", f"{self.python} ({chosen})"),
            ("world size", f"{self.world_size} = {nodes} x {tasks}, {gpus}"),
            ("batch", batch if train.batch > 0 else "as many images as fit into memory, measured at the start"),
            ("MASTER_ADDR", "addresses of rank 0's host, unless it is set" if self.num_nodes > 1 else "127.0.0.1"),
            ("MASTER_PORT", f"{port}; the next free one if it is in use"),
            *(container_decisions(self.spec, self.run) if self.uses_slurm else ()),
            *self._requeue_decision(),
            *self._validation_decision(),
            *self._data_decisions(),
            *self._stage_decisions(),
            *self._notify_decision(),
            *self._tracking_decision(),
            *(
                ("environment", f"{name}={value} is expanded where the tasks run")
                for name, value in self.spec.cluster.env.items()
                if variables_in(value)
            ),
            *(("environment", f"{name}={value} applies to the job") for name, value in self.variables.items()),
            *(
                ("environment", f"{name}={value} is ignored: overridden by the spec")
                for name, value in self.ignored_variables.items()
            ),
        ]

    def _validation_decision(self) -> list[tuple[str, str]]:
        if self.spec.validate == "in_job":
            return []
        aside = "aside: jobs of one task evaluate the models, at most one waits; the last epoch is evaluated here"
        return [("validation", aside if self.uses_slurm else "in the tasks: aside needs Slurm jobs")]

    def _stage_decisions(self) -> list[tuple[str, str]]:
        if not self.spec.then:
            return []

        from hpc_yolo.launch.stages import stage_decisions  # with all that it needs 20 ms, of no use without stages

        return stage_decisions(self.run, self.spec, in_slurm=self.uses_slurm)

    def _data_decisions(self) -> list[tuple[str, str]]:
        written = next((path for path in self.spec.data.paths if has_variables(path)), None)
        expanded = [("data", f"{written} is expanded where the tasks run")] if written is not None else []
        if self.spec.data.stage == OFF:
            return expanded

        from hpc_yolo.launch.staging_plan import staging_decision  # of no use without staging

        return [*expanded, *staging_decision(self.run, self.spec, for_slurm=self.uses_slurm)]

    def _notify_decision(self) -> list[tuple[str, str]]:
        notify = self.spec.notify
        if notify is None:
            return []
        ways = [*notify.recipients, *(way for way in ("webhook", "command") if getattr(notify, way) is not None)]
        return [("notify", f"{', '.join(ways)}: {', '.join(notify.events)}")]

    def _tracking_decision(self) -> list[tuple[str, str]]:
        tracking = self.spec.tracking
        if tracking is None:
            return []
        where = "beside the run, on this machine"
        if self.uses_slurm:
            in_job, here = "beside the tasks of each job", "on this host with --follow, else by hpc-yolo track"
            where = in_job if tracking.where == "job" else here
        return [("tracking", f"{tracking.to}, {where}")]

    def _requeue_decision(self) -> list[tuple[str, str]]:
        if not self.uses_slurm:
            return []
        if self.requeue is None:
            wanted = self.spec.cluster.requeue
            return [
                (
                    "interrupted",
                    "the fastest way to continue, chosen when Slurm answers" if wanted == "auto" else wanted,
                )
            ]
        choice = self.requeue
        after = "" if choice.wait_s is None else f", may start again after {choice.wait_s} s"
        options = f"; sbatch {' '.join(self.sbatch_options)}" if self.sbatch_options else ""
        return [("interrupted", f"{choice.mode}{after}: {choice.why}{options}")]


def _spans(numbers: Sequence[int]) -> Iterator[str]:
    """Yield runs of consecutive `numbers` as 0-99, or 7."""
    for _, group in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        span = [number for _, number in group]
        yield str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}"


def make_plan(spec: Spec, environ: Mapping[str, str] | None = None, run: RunDirectory | None = None) -> Plan:
    """Return the plan of a submission of `spec` from this machine.

    Args:
        run: the run directory, where that does not follow from the spec.

    Raises:
        ClusterError: a GPU of train.device does not exist, or tasks on this machine would need a container.
        SpecError: the runtime of the container is open.
        RunError: the run directory belongs to a run with different training settings.
    """
    executor, why = choose_executor(spec.cluster.executor)
    environ = current_environment() if environ is None else environ
    run = planned_run(spec) if run is None else run
    if executor == "slurm":
        return slurm_plan(spec, run, why, environ)
    require_no_container(spec.cluster)
    chosen = chosen_gpus(spec.train.device, visible_gpus(environ))
    tasks, gpus = local_tasks(spec.cluster, spec.train.batch, len(chosen), len(os.sched_getaffinity(0)))
    if executor == "debug":
        tasks, gpus = 1, min(gpus, 1)
    if tasks != spec.cluster.world_size:
        fit = "1 task fits" if tasks == 1 else f"{tasks} tasks fit"
        why += f"; {fit} this machine, the spec requests {spec.cluster.world_size} (the batch is unchanged)"
    return Plan(
        spec,
        run,
        executor,
        why,
        1,
        tasks,
        gpus,
        continues=run.exists,
        local_gpus=chosen[:gpus],
        has_data_on_nodes=names_file_of_nodes(spec, environ, for_slurm=False),
    )


def planned_run(spec: Spec) -> RunDirectory:
    """Return the run directory of `spec`.

    Raises:
        RunError: it belongs to another user, to a sweep, or to a run with different training settings.
        SpecError: the spec has a sweep.
    """
    require_no_sweep(spec)
    run = RunDirectory(Path(spec.output).absolute() / spec.name)
    run.require_own()
    if SweepDirectory(run.path).exists:
        raise RunError(f"{run.path} is the directory of a sweep", hint="choose another name with --set name=NAME")
    require_same_training(run, spec)
    return run


def require_no_sweep(spec: Spec) -> None:
    """Check that `spec` describes one run.

    Raises:
        SpecError: it has a sweep.
    """
    if spec.sweep is not None:
        raise SpecError("sweep: this command is for one run", hint="hpc-yolo submit SPEC starts the trials of a sweep")


def slurm_plan(spec: Spec, run: RunDirectory, why: str, environ: Mapping[str, str]) -> Plan:
    """Return the plan of a Slurm job of `run`, submitted from a shell with `environ`, without a query of Slurm.

    Raises:
        SpecError: the runtime of the container is open, Slurm cannot write the log of a job in `run`, or the time
            limit in `environ` does not fit the spec.
    """
    if "\\" in str(run.path) or control_characters(str(run.path)):
        message = f"output: {str(run.path)!r}: Slurm cannot write a log to a path with a backslash or a line break"
        raise SpecError(message, hint="choose another directory with --set output=DIR")
    spec = with_runtime(spec)
    cluster = spec.cluster
    save_times = read_save_times(run)
    variables, ignored = split_variables(
        clean_environment(environ), sbatch.sbatch_options(spec.name, cluster, "", save_times)
    )
    requested = with_requests(cluster, variables)
    if requested != cluster and (found := next(cluster_findings(requested), None)):  # tasks read that spec
        hint = f"allowed: {found.allowed}; or unset SBATCH_TIMELIMIT, which sets the limit"
        raise SpecError(f"{found.field}: {found.message}", hint=hint)
    return Plan(
        spec=msgspec.structs.replace(spec, cluster=requested),
        run=run,
        executor="slurm",
        why=why,
        num_nodes=cluster.nodes,
        tasks_per_node=cluster.num_tasks_per_node,
        gpus_per_node=cluster.gpus_per_node,
        continues=run.exists,
        save_times=save_times,
        variables=variables,
        ignored_variables=ignored,
        has_data_on_nodes=names_file_of_nodes(spec, environ, for_slurm=True),
    )


def plan_at_site(plan: Plan, settings: SiteSettings | None) -> Plan:
    """Return `plan` with the decisions that depend on the `settings` of the site.

    Raises:
        ClusterError: the site does not support the value of cluster.requeue.
    """
    wanted = plan.spec.cluster.requeue
    if wanted == "expedite" and settings is not None and not settings.expedites:
        hint = "--set cluster.requeue=auto chooses the fastest supported way"
        raise ClusterError(f"cluster.requeue: expedite {site.NO_EXPEDITE}", hint=hint)
    choice = site.choose_requeue(wanted, settings)
    if wanted == "auto" and choice.mode == "chain" and plan.spec.cluster.sbatch.get("hold"):
        choice = site.choose_requeue("requeue", settings)  # the successors in a chain would stay held
    return replace(plan, requeue=choice, settings=settings)


def choose_executor(wanted: str) -> tuple[str, str]:
    """Return (slurm, local or debug; why).

    Where sbatch is installed, auto means Slurm even if the controller does not answer: a login node must not train.
    """
    if wanted != "auto":
        return wanted, "set by the spec"
    if scheduler.is_installed():
        return "slurm", "sbatch is installed here"
    return "local", "sbatch is not installed here, so local processes train"
