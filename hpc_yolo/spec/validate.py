"""Rules that the type of one field cannot express.

Formats of times and memory, fields that exclude or require each other, and what is not supported yet.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

from hpc_yolo.core.package_data import resource_directory
from hpc_yolo.core.units import counted, is_whole_memory, parse_limit_s, parse_mem_bytes
from hpc_yolo.spec.container_rules import VARIABLE_NAME, container_findings, missing_image
from hpc_yolo.spec.data import AUTO, OFF, DataSpec
from hpc_yolo.spec.data_rules import data_findings
from hpc_yolo.spec.notify_rules import notify_findings
from hpc_yolo.spec.problems import Finding
from hpc_yolo.spec.run_name import name_findings
from hpc_yolo.spec.sbatch_options import option_findings
from hpc_yolo.spec.schema import ClusterSpec, Spec
from hpc_yolo.spec.shell import setup_findings
from hpc_yolo.spec.srun_options import srun_findings
from hpc_yolo.spec.stage_rules import request_findings, stage_findings
from hpc_yolo.spec.tracking import tracking_findings
from hpc_yolo.spec.train import MEASURED_BATCH, TrainSpec

GRES = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(:[A-Za-z0-9_.-]+)*")  # name, type, count
MODULE = re.compile(r"[A-Za-z0-9_/][^\s\"'`$&|;<>()\\]*")

TASKS = ("cluster.gpus_per_node", "cluster.tasks_per_node")  # what the number of tasks on a node follows from


def findings(spec: Spec) -> Iterator[Finding]:
    """Yield the problems of a spec whose single values are valid, and of the trials of its sweep."""
    yield from run_findings(spec)
    if spec.sweep is not None:
        from hpc_yolo.spec.trials import sweep_findings  # 9 ms, of no use without a sweep

        yield from sweep_findings(spec, run_findings)


def run_findings(spec: Spec) -> Iterator[Finding]:
    """Yield the problems of a spec as that of one run."""
    yield from data_findings(spec.data)
    yield from _data(spec.data)
    yield from name_findings(spec.name)
    yield from cluster_findings(spec.cluster)
    yield from missing_image(spec.cluster)
    yield from stage_findings(spec.then)
    yield from notify_findings(spec.notify)
    yield from tracking_findings(spec.tracking)
    yield from _model(spec.model, spec.weights, spec.train.imgsz)
    yield from _batch(spec.train, spec.cluster)
    yield from _image_weights(spec.train, spec.cluster)
    yield from _validation(spec)
    yield from _data_parallel(spec.train, spec.cluster)
    yield from _device(spec.train, spec.cluster)


def cluster_findings(cluster: ClusterSpec) -> Iterator[Finding]:
    """Yield the problems of what a job requests, by itself."""
    yield from _formats(cluster)
    yield from _resources(cluster)
    yield from _gres(cluster)
    yield from option_findings(cluster)
    yield from srun_findings(cluster)
    yield from setup_findings(cluster)
    yield from container_findings(cluster)
    yield from _names(cluster)


def model_names() -> list[str]:
    """Return the names of the models in the package."""
    return sorted(path.stem for path in (resource_directory("configs") / "models").glob("*.yaml"))


def _data(data: DataSpec) -> Iterator[Finding]:
    if data.stage not in (OFF, AUTO) and not data.stage.startswith(("/", "$", "~")):
        message = f"{data.stage!r} is not off, auto or an absolute path"
        yield Finding("data.stage", message, "off, auto, or a directory of the nodes such as $SLURM_TMPDIR or /dev/shm")
    if data.size_limit is not None:
        try:
            parse_mem_bytes(data.size_limit)
        except ValueError as error:
            yield Finding("data.size_limit", str(error), "a whole number with K, M, G or T, such as 100G")


def _formats(cluster: ClusterSpec) -> Iterator[Finding]:
    if cluster.time is not None:
        try:
            limit_s = parse_limit_s(cluster.time)
        except ValueError as error:
            yield Finding("cluster.time", str(error), "minutes, hh:mm:ss, d-hh:mm:ss or UNLIMITED")
        else:
            if limit_s is not None and isinstance(cluster.signal_before_s, int) and cluster.signal_before_s >= limit_s:
                message = f"{cluster.signal_before_s} s is not before the end of a job of {limit_s} s"
                yield Finding("cluster.signal_before_s", message, f"under {limit_s}, or auto")
    for field in ("mem", "mem_per_cpu", "mem_per_gpu"):
        text = getattr(cluster, field)
        if text is not None and not is_whole_memory(text):
            try:
                parse_mem_bytes(text)
            except ValueError as error:
                yield Finding(f"cluster.{field}", str(error), "a whole number with K, M, G or T; 0 for all of a node's")


def _resources(cluster: ClusterSpec) -> Iterator[Finding]:
    asked = [field for field in ("mem", "mem_per_cpu", "mem_per_gpu") if getattr(cluster, field) is not None]
    if len(asked) > 1:
        yield Finding(f"cluster.{asked[1]}", f"excludes {' and '.join(asked[:1] + asked[2:])}", "one of the three")
    if cluster.mem_per_gpu is not None and cluster.gpus_per_node == 0:
        yield Finding("cluster.mem_per_gpu", "needs GPUs, and gpus_per_node is 0", "mem or mem_per_cpu")
    if cluster.gpu_type is not None and cluster.gpus_per_node == 0:
        allowed = "null, or gpus_per_node of at least 1"
        yield Finding("cluster.gpu_type", "needs GPUs, and gpus_per_node is 0", allowed)
    if cluster.gpus_per_node and cluster.tasks_per_node not in (None, cluster.gpus_per_node):
        tasks, gpus = counted(cluster.tasks_per_node or 0, "task"), counted(cluster.gpus_per_node, "GPU")
        message = f"{tasks} on {gpus}; a task has one GPU"
        yield Finding("cluster.tasks_per_node", message, f"{cluster.gpus_per_node}, or leave it out", TASKS)


def _gres(cluster: ClusterSpec) -> Iterator[Finding]:
    for resource in cluster.other_gres:
        if not GRES.fullmatch(resource):
            yield Finding("cluster.gres", f"{resource!r} is not a generic resource", "such as nvme:50")
        elif resource.partition(":")[0] == "gpu":
            yield Finding("cluster.gres", "GPUs have fields of their own", "cluster.gpus_per_node and cluster.gpu_type")
    for field in ("gpu_type", "mem_per_gpu"):
        if cluster.gpu_request == "none" and cluster.gpus_per_node and getattr(cluster, field) is not None:
            message = "needs a request of GPUs, and gpu_request is none"
            yield Finding(f"cluster.{field}", message, "null, or another gpu_request", ("cluster.gpu_request",))


def _names(cluster: ClusterSpec) -> Iterator[Finding]:
    for name in cluster.env:
        if not VARIABLE_NAME.fullmatch(name):
            yield Finding(f"cluster.env.{name}", "not the name of a variable", "letters, digits and _")
    for module in cluster.modules:
        if not MODULE.fullmatch(module):
            yield Finding("cluster.modules", f"{module!r} is not a module", "such as cuda/12.4, a list item each")
    if cluster.python is not None and (not cluster.python or re.search(r"[\s$]", cluster.python)):
        message = f"{cluster.python!r} is not a path; variables are not expanded, and arguments not passed on"
        yield Finding("cluster.python", message, "such as /home/me/venv/bin/python, ~/venv/bin/python or python3")


def _model(model: str, weights: str, imgsz: int) -> Iterator[Finding]:
    known = model_names()
    if not model:
        if not weights:
            yield Finding("model", "is missing, and there are no weights to take it from", f"{', '.join(known)}")
        return
    if Path(model).suffix not in (".yaml", ".yml") and model not in known:
        near = difflib.get_close_matches(model, known, n=1)
        nearest = f"; {near[0]} is the nearest" if near else ""
        allowed = f"{', '.join(known)}, or a YAML of layers{nearest}"
        yield Finding("model", f"there is no model {model!r}", allowed)
    if model.partition("-")[0].endswith("6") and imgsz % 64:
        above = (imgsz // 64 + 1) * 64
        message = f"{imgsz} is no multiple of 64, the stride of {model}"
        yield Finding("train.imgsz", message, f"such as {above}")


def _batch(train: TrainSpec, cluster: ClusterSpec) -> Iterator[Finding]:
    batch, world_size = train.batch, cluster.world_size
    if batch == 0:
        yield Finding("train.batch", "a batch of no images", "a multiple of the world size")
    if batch > 0 and batch % world_size:
        below, above = batch // world_size * world_size, (batch // world_size + 1) * world_size
        tasks = f"{counted(cluster.nodes, 'node')} x {counted(cluster.num_tasks_per_node, 'task')}"
        nearest = f"{below} or {above}" if below else str(above)
        message = f"{batch} is not a multiple of the world size {world_size} ({tasks})"
        yield Finding("train.batch", message, nearest, ("cluster.nodes", *TASKS))
    if batch == MEASURED_BATCH and world_size > 1:
        message = "-1 measures the memory of one task, and there are several"
        yield Finding("train.batch", message, "a number of images", ("cluster.nodes", *TASKS))


def _validation(spec: Spec) -> Iterator[Finding]:
    if spec.validate == "aside" and spec.train.image_weights:
        yield Finding("validate", "image_weights draws images by the last evaluation, so it must be known", "in_job")
    if spec.validate_cluster is not None:
        if spec.validate == "in_job":
            message = "is the request of the jobs of validate: aside, and validate is in_job"
            yield Finding("validate_cluster", message, "validate: aside, or leave it out", ("validate",))
        yield from request_findings("validate_cluster", spec.validate_cluster)


def _data_parallel(train: TrainSpec, cluster: ClusterSpec) -> Iterator[Finding]:
    if not train.data_parallel:
        return
    if cluster.world_size > 1:
        message = "is one process for all GPUs, and there are several tasks"
        yield Finding("train.data_parallel", message, "false, or one task", ("cluster.nodes", *TASKS))
    num_devices = len(train.device.split(","))
    if train.batch == MEASURED_BATCH:
        message = "-1 measures the memory of one GPU, and data_parallel takes all"
        yield Finding("train.batch", message, "a number of images")
    elif train.batch % num_devices:
        below, above = train.batch // num_devices * num_devices, (train.batch // num_devices + 1) * num_devices
        yield Finding(
            "train.batch", f"{train.batch} is not a multiple of {counted(num_devices, 'GPU')}", f"{below} or {above}"
        )


def _image_weights(train: TrainSpec, cluster: ClusterSpec) -> Iterator[Finding]:
    if train.image_weights and cluster.world_size > 1:
        message = "needs one task, and there are several"
        yield Finding("train.image_weights", message, "false", ("cluster.nodes", *TASKS))
    if train.image_weights and train.rect:
        yield Finding("train.image_weights", "rectangles have an order of their own", "false, or train.rect: false")


def _device(train: TrainSpec, cluster: ClusterSpec) -> Iterator[Finding]:
    if train.augment_device == "gpu" and (train.device == "cpu" or not cluster.gpus_per_node):
        cause = "train.device is cpu" if train.device == "cpu" else "cluster.gpus_per_node is 0"
        written = ("train.device",) if train.device == "cpu" else ("cluster.gpus_per_node",)
        yield Finding("train.augment_device", f"gpu needs GPUs, and {cause}", "auto or cpu", written)
    if train.device in ("auto", "cpu"):
        return
    num_devices = 1 if train.data_parallel else len(train.device.split(","))
    if cluster.nodes > 1:
        yield Finding("train.device", f"names GPUs of one machine, and there are {cluster.nodes} nodes", "auto")
    elif num_devices != cluster.num_tasks_per_node:
        tasks = cluster.num_tasks_per_node
        message = f"names {counted(num_devices, 'GPU')} for {counted(tasks, 'task')}"
        yield Finding("train.device", message, f"{tasks} numbers, or gpus_per_node", ("cluster.nodes", *TASKS))
