"""Variables in the paths of a spec.

Those that every machine of the run reads (`output`, weights, model, hyperparameters, inputs of stages) are expanded
when the spec is loaded. `data` is kept as it is written: it is expanded on each node, where a site may put a copy of
the dataset. Text that exists as a path is no variable.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

from hpc_yolo.core.variables import is_of_job, variables_in
from hpc_yolo.spec.problems import Finding
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.stages import PredictStage, Stage

OUTPUT = "a directory that the nodes see too, such as $HOME/runs"
WEIGHTS = "a file that the nodes see too, such as $HOME/yolov5s.pt"
MODEL = "a name, or a YAML of layers"
HYP = "a name, or a file of hyperparameters"
SOURCE = "images that the nodes see too, such as $HOME/images"


def has_variables(path: str) -> bool:
    """Return True if `path` has variables that are to be expanded."""
    return bool(variables_in(path)) and not os.path.exists(path)  # noqa: PTH110, it takes any text


def with_expanded_paths(spec: Spec) -> tuple[Spec, list[Finding]]:
    """Return (`spec` with the values of the variables in its paths but `data`, the problems of all of its paths)."""
    findings: list[Finding] = []
    on_nodes = spec.cluster.executor in ("auto", "slurm")

    def expand(field: str, written: str, allowed: str) -> str:
        value, problems = _expanded(field, written, allowed, on_nodes=on_nodes)
        findings.extend(problems)
        return value

    for data in spec.data.paths:
        if has_variables(data) and not os.path.isabs(data) and not data.startswith(("$", "~")):  # noqa: PTH117
            message = f"{data!r} depends on a variable and on the working directory"
            field = "data.train" if spec.data.is_inline else "data.path"
            findings.append(Finding(field, message, "an absolute path, such as $SLURM_TMPDIR/coco.yaml"))
    train = msgspec.structs.replace(spec.train, hyp=expand("train.hyp", spec.train.hyp, HYP))
    expanded = msgspec.structs.replace(
        spec,
        output=expand("output", spec.output, OUTPUT),
        weights=expand("weights", spec.weights, WEIGHTS),
        model=expand("model", spec.model, MODEL),
        train=train,
        then=[_expanded_stage(f"then[{index}]", stage, expand) for index, stage in enumerate(spec.then)],
    )
    return expanded, findings


def _expanded_stage(path: str, stage: Stage, expand: Callable[[str, str, str], str]) -> Stage:
    """Return `stage` with expanded paths of its weights and sources."""
    for kind in stage.kinds:
        step = getattr(stage, kind)
        if hasattr(step, "weights"):
            step = msgspec.structs.replace(step, weights=expand(f"{path}.{kind}.weights", step.weights, WEIGHTS))
        if isinstance(step, PredictStage):
            sources = [expand(f"{path}.{kind}.source", source, SOURCE) for source in step.sources]
            step = msgspec.structs.replace(step, source=sources)
        stage = msgspec.structs.replace(stage, **{kind: step})
    return stage


def _expanded(field: str, written: str, allowed: str, *, on_nodes: bool) -> tuple[str, list[Finding]]:
    """Return (the value of a path, the problem of its first variable that is not set, or has a value only in a job)."""
    if not has_variables(written):
        return written, []
    value = os.path.expandvars(os.path.expanduser(written))  # noqa: PTH111, it takes any text
    unset = set(variables_in(value))
    for name in variables_in(written):
        if on_nodes and is_of_job(name):
            message = f"{written!r}: {name} differs between this machine, the jobs of the run and their nodes"
            return value, [Finding(field, message, allowed)]
        if name in unset:
            message = f"{written!r}: the variable {name} is not set on this machine"
            return value, [Finding(field, message, f"set it, or write the path: {allowed}")]
    return value, []
