"""From a checked spec to a job: which executor, how many tasks, the run directory, and submitit's call.

`make_plan` decides and touches nothing, so that a dry run can print it; `submit` carries a plan out.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import hpc_yolo
from hpc_yolo import sbatch
from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.local import local_job_is_alive
from hpc_yolo.cluster.process import clean_environment, current_environment
from hpc_yolo.errors import ClusterError, RunError, SchedulerUnavailable
from hpc_yolo.fileio import write_atomic
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.submissions import Submission, add_submission
from hpc_yolo.spec.load import dump_spec
from hpc_yolo.spec.schema import Spec

if TYPE_CHECKING:
    import submitit

PROBE_TIMEOUT_S = 3.0
SLURM_POLL_S = 5.0
LOCAL_LIMIT_MIN = 60 * 24 * 365
# What may differ between the submissions of one run: where it runs and how long, not what it learns.
CHANGEABLE = ("cluster", "checkpoint", "output")
CHANGEABLE_IN_TRAIN = (
    "epochs",
    "device",
    "workers",
    "cache",
    "patience",
    "val_every",
    "save_period",
    "start_timeout_s",
)


class TrainingJob:
    """What submitit pickles: the run directory's path. All else is read from there when a task starts."""

    def __init__(self, run_directory: str) -> None:
        self.run_directory = run_directory

    def __call__(self) -> None:
        from hpc_yolo.engine.task import run_task  # imports torch: only in the task
        from hpc_yolo.spec.load import load_spec

        run = RunDirectory(Path(self.run_directory))
        run_task(run, load_spec(run.spec))


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
    goes_on: bool  # the run was started before

    @property
    def world_size(self) -> int:
        return self.num_nodes * self.tasks_per_node

    @property
    def script(self) -> str | None:
        """The sbatch script that goes to Slurm; None for other executors."""
        if self.executor != "slurm":
            return None
        # The variable tells submitit's entry point, among several launchers' traces, that this is a Slurm job.
        command = [
            "env",
            "SUBMITIT_EXECUTOR=slurm",
            sys.executable,
            "-u",
            "-m",
            "submitit.core._submit",
            str(self.run.jobs),
        ]
        return sbatch.script(self.spec, command, log=f"{str(self.run.jobs).replace('%', '%%')}/%j.log")

    def decisions(self) -> list[tuple[str, str]]:
        """(what, decision) for people to read."""
        train = self.spec.train
        port = "free port of this machine" if self.executor != "slurm" else "derived from the job id, in 10000-32767"
        gpus = f"{self.gpus_per_node} GPUs" if self.gpus_per_node else "CPUs only"
        return [
            ("run directory", f"{self.run.path} ({'goes on from its last checkpoint' if self.goes_on else 'new'})"),
            ("executor", f"{self.executor}: {self.why}"),
            ("world size", f"{self.world_size} = {self.num_nodes} nodes x {self.tasks_per_node} tasks, {gpus} a node"),
            ("batch", f"{train.batch} images a step, {train.batch // self.world_size} on each rank"),
            ("MASTER_ADDR", "first host of the step" if self.executor == "slurm" else "127.0.0.1"),
            ("MASTER_PORT", f"{port}; the next free one if it is taken"),
        ]


@dataclass(frozen=True)
class SubmittedJob:
    """A job on its way. `owned`: this process started it, and may end it."""

    submission: Submission
    owned: bool = False

    def is_alive(self) -> bool:
        """Whether the job is queued or runs. While Slurm does not answer, it is believed to live."""
        job_id = self.submission.job_id
        if self.submission.executor == "slurm":
            return _slurm_job_is_alive(job_id, int(time.monotonic() / SLURM_POLL_S))
        # A debug run happened inside the submitting process.
        return self.submission.executor == "local" and local_job_is_alive(job_id, self.submission.host)

    def stop(self) -> bool:
        """Ask a local job of ours to save and leave; False for a job that goes on without us."""
        if self.submission.executor != "local" or not self.owned:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(self.submission.job_id), signal.SIGTERM)  # submitit's controller passes it on to every task
        return True


def make_plan(spec: Spec, environ: Mapping[str, str] | None = None) -> Plan:
    """Decide how `spec` runs here.

    Raises:
        ClusterError: executor slurm was asked for and Slurm does not answer, or debug with several tasks.
        RunError: the run directory belongs to a run that learns something else.
    """
    run = RunDirectory(Path(spec.output).absolute() / spec.name)
    require_same_training(run, spec)
    executor, why = choose_executor(spec)
    if executor == "slurm":
        cluster = spec.cluster
        num_nodes, tasks, gpus = cluster.nodes, cluster.num_tasks_per_node, cluster.gpus_per_node
    else:
        visible = visible_gpus(environ if environ is not None else current_environment())
        num_nodes, (tasks, gpus) = 1, local_tasks(spec, visible, len(os.sched_getaffinity(0)))
        if executor == "debug":
            tasks, gpus = 1, min(gpus, 1)
        if tasks != spec.world_size:
            why += f"; {tasks} tasks fit this machine where the spec asks for {spec.world_size} (the batch stays)"
    return Plan(spec, run, executor, why, num_nodes, tasks, gpus, goes_on=run.exists)


def choose_executor(spec: Spec) -> tuple[str, str]:
    """(slurm, local or debug; why), asking Slurm only where the spec leaves it open or wants it."""
    wanted = spec.cluster.executor
    if wanted in ("local", "debug"):
        return wanted, "as the spec says"
    probe = scheduler.probe(timeout_s=PROBE_TIMEOUT_S)
    if probe.available:
        return "slurm", "a Slurm controller answers" if wanted == "auto" else "as the spec says"
    if wanted == "slurm":
        raise ClusterError(
            f"cluster.executor is slurm, but {probe.reason}",
            hint="try again when Slurm is back, or train on this machine with --local",
        )
    return "local", f"{probe.reason.partition(' (')[0]}, so local processes train"


def local_tasks(spec: Spec, num_gpus: int, num_cpus: int) -> tuple[int, int]:
    """(tasks, GPUs) of a run on this machine: one task a GPU, or CPU tasks; as many as fit and divide the batch."""
    uses_gpus = spec.cluster.gpus_per_node > 0 and num_gpus > 0 and spec.train.device != "cpu"
    tasks = min(spec.world_size, num_gpus if uses_gpus else num_cpus)
    while spec.train.batch % tasks:
        tasks -= 1
    return tasks, tasks if uses_gpus else 0


def visible_gpus(environ: Mapping[str, str]) -> int:
    """NVIDIA GPUs of this machine that CUDA_VISIBLE_DEVICES leaves, without importing torch."""
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return len([device for device in listed.split(",") if device.strip() not in ("", "-1")])
    cards = Path("/proc/driver/nvidia/gpus")
    return len(list(cards.iterdir())) if cards.is_dir() else 0


def start_estimate(script: str) -> str:
    """When Slurm would start the job, or why it would not, in a few words; nothing is queued."""
    with tempfile.NamedTemporaryFile("w", suffix=".sbatch") as file:
        file.write(script)
        file.flush()
        try:
            estimate = scheduler.estimate_start(Path(file.name))
        except ClusterError as error:
            return f"not as it is: {error.message}"
    return f"at {estimate.start} on {estimate.nodes}, says Slurm"


def submit(plan: Plan) -> SubmittedJob:
    """Make the run directory and start or queue the job.

    Raises:
        RunError: the run directory cannot be written.
        ClusterError: Slurm refuses; the message has its own words.
    """
    prepare_run(plan.run, plan.spec)
    if plan.script is not None:
        write_atomic(plan.run.script, plan.script)
    started = time.time()
    job = _submit_with_submitit(plan)
    submission = Submission(
        time=started,
        executor=plan.executor,
        job_id=job.job_id,
        host=platform.node(),
        num_nodes=plan.num_nodes,
        tasks_per_node=plan.tasks_per_node,
        gpus_per_node=plan.gpus_per_node,
    )
    add_submission(plan.run, submission)
    if plan.executor == "debug" and (error := job.exception()) is not None:  # this is what runs it
        raise error
    return SubmittedJob(submission, owned=True)


@functools.lru_cache(maxsize=1)
def _slurm_job_is_alive(job_id: str, _time_slot: int) -> bool:
    """Ask Slurm once per time slot, however often somebody wants to know."""
    try:
        state = scheduler.job_states([job_id]).get(job_id)
    except SchedulerUnavailable:
        return True
    return state is not None and state.is_alive


def prepare_run(run: RunDirectory, spec: Spec) -> None:
    """Make the run directory of `spec` with what a later reader wants to know of its origin.

    Raises:
        RunError: it cannot be written, or belongs to a run that learns something else.
    """
    require_same_training(run, spec)
    run.create()
    try:
        write_atomic(run.spec, dump_spec(spec))
        write_atomic(run.origin, json.dumps(origin(), indent=2) + "\n")
        write_atomic(run.packages, "\n".join(installed_packages()) + "\n")
    except OSError as error:
        raise RunError(
            f"{run.path}: cannot be written: {error.strerror}", hint="give another place with --set output=DIR"
        ) from error


def require_same_training(run: RunDirectory, spec: Spec) -> None:
    """Refuse a spec that would go on with a run that learns something else.

    Raises:
        RunError: naming the fields that differ.
    """
    if not run.exists:
        return
    from hpc_yolo.spec.load import load_spec

    before, now = _what_it_learns(load_spec(run.spec)), _what_it_learns(spec)
    changed = sorted(field for field in before.keys() | now.keys() if before.get(field) != now.get(field))
    if changed:
        differences = ", ".join(f"{field}: {before.get(field)} -> {now.get(field)}" for field in changed)
        raise RunError(
            f"{run.path} holds a run with another spec ({differences})",
            hint="give the new run another name with --set name=NAME, or remove that directory",
        )


def _what_it_learns(spec: Spec) -> dict[str, Any]:
    fields = {name: value for name, value in msgspec.to_builtins(spec).items() if name not in CHANGEABLE}
    train = fields.pop("train")
    return fields | {f"train.{name}": value for name, value in train.items() if name not in CHANGEABLE_IN_TRAIN}


def origin() -> dict[str, str | None]:
    """Where this code comes from and what was typed."""
    return {
        "hpc_yolo": hpc_yolo.__version__,
        "git_commit": git_commit(Path(hpc_yolo.__file__).parent),
        "command": " ".join(sys.argv),
        "python": f"{platform.python_version()} ({sys.executable})",
        "host": platform.node(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def git_commit(folder: Path) -> str | None:
    """The commit checked out in `folder`, with "+changes" where files differ from it; None outside a repository."""
    if shutil.which("git") is None:
        return None
    described = subprocess.run(
        ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or None


def installed_packages() -> list[str]:
    """name==version of every distribution in this environment, by name."""
    import importlib.metadata  # 12 ms that a dry run need not wait for

    found = {f"{item.metadata['Name']}=={item.version}" for item in importlib.metadata.distributions()}
    return sorted(found, key=str.lower)


def _submit_with_submitit(plan: Plan) -> submitit.Job[None]:
    import submitit  # 60 ms that a dry run need not wait for

    executor = submitit.AutoExecutor(folder=plan.run.jobs, cluster=plan.executor)
    if plan.executor == "slurm":
        text = plan.script
        # submitit pickles, submits and tracks; the script is ours, so that what --dry-run shows is what goes.
        slurm: Any = executor._executor
        slurm._make_submission_file_text = lambda *_: text
        executor.update_parameters(nodes=plan.num_nodes, tasks_per_node=plan.tasks_per_node)
    elif plan.executor == "local":
        executor.update_parameters(
            tasks_per_node=plan.tasks_per_node,
            gpus_per_node=plan.gpus_per_node,
            timeout_min=LOCAL_LIMIT_MIN,
            stderr_to_stdout=True,
        )
    # A script exports the spec's variables itself; tasks on this machine inherit them.
    added = {} if plan.executor == "slurm" else plan.spec.cluster.env
    with _variables_of_the_job(added), _interrupt_ignored():
        try:
            return executor.submit(TrainingJob(str(plan.run.path)))
        except submitit.core.utils.FailedJobError as error:
            raise ClusterError(
                f"Slurm refuses the job: {_slurm_words(str(error))}",
                hint="see what it would get with --dry-run, and what there is with sinfo",
            ) from error


def _slurm_words(text: str) -> str:
    """sbatch's own complaint out of submitit's."""
    words = [line.strip() for line in text.splitlines() if "error:" in line]
    return "; ".join(words) or text.strip()


@contextlib.contextmanager
def _variables_of_the_job(added: dict[str, str]) -> Iterator[None]:
    """While the job is being submitted: without a surrounding allocation's variables, with those `added`."""
    before = current_environment()
    _replace_environment(clean_environment(before) | added)
    try:
        yield
    finally:
        _replace_environment(before)


@contextlib.contextmanager
def _interrupt_ignored() -> Iterator[None]:
    """Processes started inside the block are deaf to the terminal's Ctrl-C: we tell them, and they save first."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _replace_environment(environ: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environ)
