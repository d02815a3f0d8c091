"""Every field of a spec: a typed line, a sentence with its unit, and the range that is allowed.

Rules across fields are in `validate`; reading and error messages in `load`. docs/spec.md and the JSON schema are
generated from this file and those of its sections. For a pattern, `allowed` in `extra` is its text for users, and
`read` converts other forms. Annotations are not strings here: evaluating those would take a third of the time of
reading a spec.
"""

import shlex
from typing import Annotated, Literal

from msgspec import Meta, field

from hpc_yolo.spec.checkpoint import CheckpointSpec
from hpc_yolo.spec.container import ContainerSpec
from hpc_yolo.spec.data import DATA_ALLOWED, DataSpec
from hpc_yolo.spec.notify import NotifySpec
from hpc_yolo.spec.section import MAY_CHANGE, WHERE_IT_RUNS, NotNegative, Positive, Section, split_list
from hpc_yolo.spec.stages import Stage, StageRequest
from hpc_yolo.spec.sweep import SweepSpec
from hpc_yolo.spec.tracking import TrackingSpec
from hpc_yolo.spec.train import TrainSpec

NAME_PATTERN = r"^[A-Za-z0-9_{][A-Za-z0-9_.{}-]{0,99}$"
NAME_ALLOWED = "1 to 100 letters, digits, - _ . without - or . in front, and patterns such as {n}"


class ClusterSpec(Section, frozen=True, kw_only=True):
    """Where the run trains and what it requests from Slurm."""

    executor: Annotated[
        Literal["auto", "slurm", "local", "debug"],
        Meta(description="slurm, processes on this machine (local), one task in this process (debug), or auto."),
    ] = "auto"
    gpu: Annotated[
        str | None,
        Meta(description="Row of the GPU table of the site profile, such as h100: what that type of GPU needs."),
    ] = None
    nodes: Annotated[Positive, Meta(description="Number of nodes (--nodes).")] = 1
    gpus_per_node: Annotated[
        NotNegative, Meta(description="GPUs, and so tasks, on each node; 0 trains on CPUs with tasks_per_node tasks.")
    ] = 1
    gpu_type: Annotated[str | None, Meta(description="Type of GPU to request, such as a100.")] = None
    gpu_request: Annotated[
        Literal["gpus_per_node", "gres", "none"],
        Meta(
            description="How to request GPUs: --gpus-per-node, --gres=gpu:N on older sites, or not at all (none) where "
            "a job gets whole nodes with their GPUs."
        ),
    ] = "gpus_per_node"
    gres: Annotated[
        list[str] | str,
        Meta(description="Other generic resources of each node, such as nvme:50; GPUs are gpus_per_node."),
    ] = field(default_factory=list)
    tasks_per_node: Annotated[Positive | None, Meta(description="Tasks on each node. Default: one a GPU.")] = None
    cpus_per_task: Annotated[Positive, Meta(description="CPU cores of each task.")] = 4
    mem: Annotated[
        str | None, Meta(description="Memory of a node, such as 400G; 0: all of it. Excludes the other two.")
    ] = None
    mem_per_cpu: Annotated[str | None, Meta(description="Memory for each CPU core, such as 4G.")] = None
    mem_per_gpu: Annotated[str | None, Meta(description="Memory for each GPU, such as 60G.")] = None
    time: Annotated[
        str | None,
        Meta(
            description="Time limit of a job: minutes, hh:mm:ss, d-hh:mm:ss or UNLIMITED; the partition's own by "
            "default."
        ),
    ] = None
    partition: Annotated[
        str | list[str] | None,
        Meta(
            description="Partition, or several of which Slurm takes the first that is free. Default: that of the site."
        ),
    ] = None
    account: Annotated[str | None, Meta(description="Account to charge.")] = None
    qos: Annotated[str | None, Meta(description="Quality of service.")] = None
    constraint: Annotated[str | None, Meta(description="Features that nodes must have.")] = None
    exclude: Annotated[list[str] | str, Meta(description="Nodes that must not be used, such as n1 or n[3-8].")] = field(
        default_factory=list
    )
    requeue: Annotated[
        Literal["auto", "expedite", "requeue", "chain", "off"],
        Meta(
            description="What follows when Slurm interrupts a job: requeue, requeue without waiting (expedite, Slurm "
            "25.11 and newer), another job (chain), or the end (off); auto: whatever resumes soonest at this site."
        ),
    ] = "auto"
    max_timeouts: Annotated[NotNegative, Meta(description="Attempts that may end at the time limit.")] = 20
    max_node_failures: Annotated[NotNegative, Meta(description="Attempts that may end with a failed node.")] = 3
    max_crashes: Annotated[NotNegative, Meta(description="Attempts that may end with a killed or stalled task.")] = 3
    signal_before_s: Annotated[
        Annotated[int, Meta(ge=1, le=65535)] | Literal["auto"],
        Meta(
            description="Seconds before the time limit at which Slurm signals the tasks; auto: from the measured saves "
            "and steps of the run, 120 without any; at most half the limit."
        ),
    ] = "auto"
    modules: Annotated[
        list[str],
        Meta(
            description="Modules that a Slurm job loads before setup, added to those of the site; /a/directory is "
            "added to the search path, purge unloads all."
        ),
    ] = field(default_factory=list)
    setup: Annotated[
        list[str] | str,
        Meta(
            description="Shell lines of a Slurm job before its tasks start: modules, variables. The first that fails "
            "ends the job. The Python of the tasks is cluster.python, not that of these lines."
        ),
    ] = field(default_factory=list)
    python: Annotated[
        str | None,
        Meta(
            description="Python of a Slurm job, with hpc-yolo installed: a path, or a name that is looked up after "
            "setup. Default: the one that submits."
        ),
    ] = None
    env: Annotated[
        dict[str, str],
        Meta(
            description="Environment variables of the tasks, such as NCCL_SOCKET_IFNAME. $NAME, ${NAME} and ~ in front "
            "are expanded where the tasks run; $$ is a dollar sign."
        ),
    ] = field(default_factory=dict)
    container: Annotated[ContainerSpec | None, Meta(description="Container in which the tasks of a Slurm job run.")] = (
        None
    )
    sbatch: Annotated[
        dict[str, str | bool | list[str] | None],
        Meta(description="Any further sbatch option by its long name; true for one without a value."),
    ] = field(default_factory=dict)
    srun: Annotated[
        dict[str, str | bool | list[str] | None],
        Meta(description="Further options of the srun that starts the tasks, such as cpu-bind or mpi."),
    ] = field(default_factory=dict)
    cpu_bind: Annotated[
        Literal["auto"] | None,
        Meta(
            description="auto: bind each task to the CPU cores nearest to its GPU (--cpu-bind of srun); needs all GPUs "
            "of a node, and gpu_cpus in a site profile."
        ),
    ] = None
    prefix: Annotated[
        list[str],
        Meta(
            description="Command that starts the Python of each task of a Slurm job, such as [numactl, --localalloc]."
        ),
    ] = field(default_factory=list)
    login_shell: Annotated[
        bool, Meta(description="Run the script of a Slurm job in a login shell, which reads /etc/profile first.")
    ] = False

    @property
    def used_container(self) -> ContainerSpec | None:
        """The container of the tasks; None without one, also where its runtime is none."""
        return None if self.container is None or self.container.runtime == "none" else self.container

    @property
    def num_tasks_per_node(self) -> int:
        """Tasks of each node: `tasks_per_node`, else one a GPU."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def world_size(self) -> int:
        """Number of ranks on all nodes."""
        return self.nodes * self.num_tasks_per_node

    @property
    def slurm_cluster(self) -> str | None:
        """Name of the Slurm cluster of the job; None for that of the submitting machine."""
        name = self.sbatch.get("clusters")
        return name if isinstance(name, str) else None

    @property
    def partitions(self) -> list[str]:
        """Names of the requested partitions; [] is the default one."""
        return split_list(self.partition or [])

    @property
    def other_gres(self) -> list[str]:
        """Generic resources of each node besides GPUs."""
        return split_list(self.gres)

    @property
    def excluded(self) -> str:
        """Node list of `exclude`, as sbatch takes it."""
        return self.exclude if isinstance(self.exclude, str) else ",".join(self.exclude)

    @property
    def module_lines(self) -> list[str]:
        """Shell lines for `modules`; one line for those that are loaded together."""
        lines: list[str] = []
        for module in self.modules:
            if module == "purge" or module.startswith("/"):
                lines.append("module purge" if module == "purge" else f"module use {shlex.quote(module)}")
            elif lines and lines[-1].startswith("module load "):
                lines[-1] += f" {shlex.quote(module)}"
            else:
                lines.append(f"module load {shlex.quote(module)}")
        return lines

    @property
    def setup_lines(self) -> list[str]:
        """Lines of `setup`, which is a block or a list of lines or blocks."""
        blocks = [self.setup] if isinstance(self.setup, str) else self.setup
        return [line for block in blocks for line in block.removesuffix("\n").split("\n")]


class Spec(Section, frozen=True, kw_only=True):
    """One run: a model, a dataset, and how and where it trains."""

    name: Annotated[
        Annotated[str, Meta(pattern=NAME_PATTERN, extra={"allowed": NAME_ALLOWED})],
        Meta(
            description="Name of the run: letters, digits, - _ . ; the run directory is <output>/<name>. {model}, "
            "{date}, {time}, {user} and {n}, the next free number, are filled in at submission."
        ),
    ]
    model: Annotated[
        str,
        Meta(description="yolov5 n, s, m, l, x, n6 to x6, or a YAML of layers; '': the model of the weights."),
    ] = ""
    data: Annotated[DataSpec, Meta(description="The dataset: a path, or a section.", extra={"allowed": DATA_ALLOWED})]
    weights: Annotated[
        str,
        Meta(description="Initial weights: a published name such as yolov5s.pt, or a file; '' trains from scratch."),
    ] = ""
    output: Annotated[
        str,
        WHERE_IT_RUNS,
        Meta(
            description="Directory of run directories, on a file system that all nodes see. $NAME, ${NAME} and ~ in "
            "front are expanded at submission."
        ),
    ] = "runs"
    site: Annotated[
        str | None,
        WHERE_IT_RUNS,
        Meta(
            description="Site profile with defaults for cluster. Default: HPC_YOLO_SITE, or the profile for this host "
            "or cluster; none: no profile."
        ),
    ] = None
    output_mode: Annotated[
        Literal["private", "group"],
        WHERE_IT_RUNS,
        Meta(
            description="Who may read the run directory: its owner alone, or its group too as far as the umask "
            "allows. The owner alone changes it."
        ),
    ] = "private"
    cluster: Annotated[ClusterSpec, WHERE_IT_RUNS, Meta(description="Where it trains.")] = field(
        default_factory=ClusterSpec
    )
    train: Annotated[TrainSpec, Meta(description="How it learns.")] = field(default_factory=TrainSpec)
    checkpoint: Annotated[CheckpointSpec, MAY_CHANGE, Meta(description="When it saves.")] = field(
        default_factory=CheckpointSpec
    )
    validate: Annotated[
        Literal["in_job", "aside"],
        MAY_CHANGE,
        Meta(
            description="Who evaluates the model during training: the tasks, which train no further meanwhile, or "
            "small Slurm jobs beside them (aside). The last epoch is evaluated by the tasks."
        ),
    ] = "in_job"
    validate_cluster: Annotated[
        StageRequest | None, WHERE_IT_RUNS, Meta(description="Request of the jobs of validate: aside.")
    ] = None
    then: Annotated[
        list[Stage],
        MAY_CHANGE,
        Meta(description="Stages after the training, in this order: val, predict, export, report or shell lines."),
    ] = field(default_factory=list)
    notify: Annotated[
        NotifySpec | None,
        WHERE_IT_RUNS,
        Meta(description="Messages to people when the run ends or needs one of them."),
    ] = None
    tracking: Annotated[
        TrackingSpec | None, WHERE_IT_RUNS, Meta(description="Tracker that shows the run, from its journal.")
    ] = None
    sweep: Annotated[SweepSpec | None, MAY_CHANGE, Meta(description="Trials: runs with values of their own.")] = None

    @property
    def model_source(self) -> str:
        """Name or path of the model: `model`, else the weights."""
        return self.model or self.weights
