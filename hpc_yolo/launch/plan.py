"""How a spec runs here: which executor, how many tasks, which script. Deciding touches nothing: a dry run prints it."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from hpc_yolo.cluster import sbatch, scheduler, site, slurm_command
from hpc_yolo.cluster.process import clean_environment, current_environment
from hpc_yolo.cluster.sbatch_variables import split_variables
from hpc_yolo.cluster.site import RequeueChoice
from hpc_yolo.core.errors import ClusterError
from hpc_yolo.core.units import counted
from hpc_yolo.launch.prepare import require_same_training
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.save_times import SaveTimes, read_save_times
from hpc_yolo.spec.schema import ClusterSpec, Spec

LAST_CHECKPOINT = "goes on from its last checkpoint"


@dataclass(frozen=True)
class Plan:
    """Every decision about one submission, made before anything is touched."""

    spec: Spec
    run: RunDirectory
    executor: str  # slurm | local | debug
    why: str  # one sentence: how the executor was chosen
    num_nodes: int
    tasks_per_node: int
    gpus_per_node: int
    goes_on: bool  # the run was there before
    local_gpus: tuple[
        str, ...
    ] = ()  # which of this machine's GPUs a local run uses, as CUDA_VISIBLE_DEVICES names them
    save_times: SaveTimes | None = None  # measured in this run so far
    variables: Mapping[str, str] = field(default_factory=dict)  # SBATCH_ ones of the shell that apply to the job
    ignored_variables: Mapping[str, str] = field(default_factory=dict)  # and those that the spec overrides
    requeue: RequeueChoice | None = None  # how a job of Slurm's goes on after an interruption

    @property
    def uses_slurm(self) -> bool:
        """Whether the run becomes a job of Slurm; else it trains on this machine."""
        return self.executor == "slurm"

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.num_nodes * self.tasks_per_node

    @property
    def script(self) -> str | None:
        """The sbatch script that goes to Slurm; None for other executors."""
        if not self.uses_slurm:
            return None
        # Tasks read all else from the run directory, so that nothing they need depends on the job's id.
        task = [self.python, "-u", "-m", "hpc_yolo", "train", str(self.run.path)]
        after_job = ["-m", "hpc_yolo", "after-job", str(self.run.path)]
        # A name is looked up in the setup's PATH, which a setup that failed has not left.
        sure_python = self.python if "/" in self.python else sys.executable
        return sbatch.script(
            self.spec.name,
            self.spec.cluster,
            shlex.join(task),
            shlex.join([self.python, *after_job]),
            log=f"{str(self.run.jobs).replace('%', '%%')}/%j.log",
            save_times=self.save_times,
            setup_record=self.run.setup_record,
            after_failed_setup=shlex.join([sure_python, *after_job]),
        )

    @property
    def python(self) -> str:
        """The interpreter of the tasks."""
        return self.spec.cluster.python if self.uses_slurm and self.spec.cluster.python else sys.executable

    @property
    def sbatch_options(self) -> list[str]:
        """Options of sbatch's command line, for what the spec leaves to the site."""
        if self.requeue is None or self.spec.cluster.requeue != "auto":
            return []
        return sbatch.option_arguments(sbatch.requeue_options(self.requeue.mode))

    def decisions(self) -> list[tuple[str, str]]:
        """(what, decision) for people to read."""
        train = self.spec.train
        port = "free port of this machine" if not self.uses_slurm else "derived from the job id, in 10000-32767"
        nodes, tasks = counted(self.num_nodes, "node"), counted(self.tasks_per_node, "task")
        gpus = f"{counted(self.gpus_per_node, 'GPU')} a node" if self.gpus_per_node else "CPUs only"
        share = f"{counted(train.batch, 'image')} a step, {train.batch // self.world_size} on each rank"
        chosen = "the one that submits" if self.python == sys.executable else "as cluster.python says"
        if not self.uses_slurm and self.spec.cluster.python is not None:
            chosen += "; cluster.python is for Slurm jobs"
        begins = "has no checkpoint yet" if self.goes_on else "new"
        return [
            ("run directory", f"{self.run.path} ({LAST_CHECKPOINT if self.run.last.exists() else begins})"),
            ("executor", f"{self.executor}: {self.why}"),
            ("python", f"{self.python} ({chosen})"),
            ("world size", f"{self.world_size} = {nodes} x {tasks}, {gpus}"),
            ("batch", share if train.batch > 0 else "as many images as fit, measured when it starts"),
            ("MASTER_ADDR", "rank 0's own addresses, unless it is set" if self.num_nodes > 1 else "127.0.0.1"),
            ("MASTER_PORT", f"{port}; the next free one if it is taken"),
            *self._requeue_decision(),
            *(("environment", f"{name}={value} applies to the job") for name, value in self.variables.items()),
            *(
                ("environment", f"{name}={value} is ignored: the spec decides")
                for name, value in self.ignored_variables.items()
            ),
        ]

    def _requeue_decision(self) -> list[tuple[str, str]]:
        if not self.uses_slurm:
            return []
        if self.requeue is None:
            wanted = self.spec.cluster.requeue
            return [("interrupted", "what comes back soonest, when Slurm answers" if wanted == "auto" else wanted)]
        choice = self.requeue
        after = "" if choice.wait_s is None else f", may start again after {choice.wait_s} s"
        options = f"; sbatch {' '.join(self.sbatch_options)}" if self.sbatch_options else ""
        return [("interrupted", f"{choice.mode}{after}: {choice.why}{options}")]


def make_plan(spec: Spec, environ: Mapping[str, str] | None = None) -> Plan:
    """Decide how `spec` runs here.

    Raises:
        ClusterError: a GPU of train.device does not exist.
        RunError: the run directory belongs to a run that learns something else.
    """
    executor, why = choose_executor(spec.cluster.executor)
    environ = current_environment() if environ is None else environ
    if executor == "slurm":
        return slurm_plan(spec, why, environ)
    run = planned_run(spec)
    chosen = chosen_gpus(spec.train.device, visible_gpus(environ))
    tasks, gpus = local_tasks(spec.cluster, spec.train.batch, len(chosen), len(os.sched_getaffinity(0)))
    if executor == "debug":
        tasks, gpus = 1, min(gpus, 1)
    if tasks != spec.cluster.world_size:
        fit = "1 task fits" if tasks == 1 else f"{tasks} tasks fit"
        why += f"; {fit} this machine where the spec asks for {spec.cluster.world_size} (the batch stays)"
    return Plan(spec, run, executor, why, 1, tasks, gpus, goes_on=run.exists, local_gpus=chosen[:gpus])


def planned_run(spec: Spec) -> RunDirectory:
    """Return the run directory of `spec`.

    Raises:
        RunError: it belongs to somebody else, or to a run that learns something else.
    """
    run = RunDirectory(Path(spec.output).absolute() / spec.name)
    run.require_own()
    require_same_training(run, spec)
    return run


def slurm_plan(spec: Spec, why: str, environ: Mapping[str, str]) -> Plan:
    """Plan a Slurm job of `spec`, submitted from a shell with `environ`; Slurm is not asked.

    Raises:
        RunError: the run directory belongs to a run that learns something else.
    """
    run, cluster = planned_run(spec), spec.cluster
    save_times = read_save_times(run)
    variables, ignored = split_variables(
        clean_environment(environ), sbatch.sbatch_options(spec.name, cluster, "", save_times)
    )
    return Plan(
        spec=spec,
        run=run,
        executor="slurm",
        why=why,
        num_nodes=cluster.nodes,
        tasks_per_node=cluster.num_tasks_per_node,
        gpus_per_node=cluster.gpus_per_node,
        goes_on=run.exists,
        save_times=save_times,
        variables=variables,
        ignored_variables=ignored,
    )


def plan_at_site(plan: Plan) -> Plan:
    """Return `plan` with what depends on the settings of Slurm, which is asked for them.

    Raises:
        ClusterError: the site cannot do what cluster.requeue asks for.
    """
    wanted, settings = plan.spec.cluster.requeue, None
    with contextlib.suppress(ClusterError):
        settings = site.site_settings(run=slurm_command.on_cluster(plan.spec.cluster.slurm_cluster))
    if wanted == "expedite" and settings is not None and not settings.expedites:
        hint = "--set cluster.requeue=auto takes what comes back soonest here"
        raise ClusterError(f"cluster.requeue: expedite {site.NO_EXPEDITE}", hint=hint)
    choice = site.choose_requeue(wanted, settings)
    if wanted == "auto" and choice.mode == "chain" and plan.spec.cluster.sbatch.get("hold"):
        choice = site.choose_requeue("requeue", settings)  # nobody would release the later jobs of a chain
    return replace(plan, requeue=choice)


def choose_executor(wanted: str) -> tuple[str, str]:
    """Return (slurm, local or debug; why).

    Where sbatch is installed, auto means Slurm even while the controller is silent: a login node must not train a spec
    that was meant for a cluster.
    """
    if wanted != "auto":
        return wanted, "as the spec says"
    if scheduler.is_installed():
        return "slurm", "sbatch is installed here"
    return "local", "sbatch is not installed here, so local processes train"


def local_tasks(cluster: ClusterSpec, batch: int, num_gpus: int, num_cpus: int) -> tuple[int, int]:
    """(tasks, GPUs) of a run on this machine: one task a GPU, or CPU tasks; as many as fit and divide the batch."""
    uses_gpus = cluster.gpus_per_node > 0 and num_gpus > 0
    tasks = min(cluster.world_size, num_gpus if uses_gpus else num_cpus)
    while batch % tasks:
        tasks -= 1
    return tasks, tasks if uses_gpus else 0


def chosen_gpus(device: str, visible: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the `visible` GPUs that `train.device` names by their position; all of them for auto, none for cpu.

    Raises:
        ClusterError: a position that is not there.
    """
    if device in ("auto", "cpu"):
        return visible if device == "auto" else ()
    positions = [int(number) for number in device.split(",")]
    if max(positions) >= len(visible):
        raise ClusterError(
            f"train.device: {device} names GPU {max(positions)}, and this machine shows {counted(len(visible), 'GPU')}",
            hint="numbers begin at 0; see nvidia-smi, or set train.device to auto",
        )
    return tuple(visible[position] for position in positions)


def visible_gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the NVIDIA GPUs of this machine that CUDA_VISIBLE_DEVICES leaves, by its names, without importing torch.

    The list is read as CUDA reads it: it ends at the first entry that is no device (-1, none, NoDevFiles), one named
    twice leaves none at all, and of several slices (MIG-...) a process sees the first.
    """
    cards = Path("/proc/driver/nvidia/gpus")
    num_cards = len(list(cards.iterdir())) if cards.is_dir() else None
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return tuple(map(str, range(num_cards or 0)))
    devices = list(itertools.takewhile(_is_device, map(str.strip, listed.split(","))))
    devices = [str(int(device)) if device.isdigit() else device for device in devices]
    if len(set(devices)) < len(devices):
        return ()
    if devices and devices[0].startswith("MIG-"):
        return (devices[0],)
    there = itertools.takewhile(lambda name: num_cards is None or not name.isdigit() or int(name) < num_cards, devices)
    return tuple(there)


def _is_device(name: str) -> bool:
    return (name.isascii() and name.isdigit()) or name.startswith(("GPU-", "MIG-"))
