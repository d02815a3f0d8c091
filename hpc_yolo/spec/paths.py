"""Variables in the paths of a spec.

Those that every machine of the run reads (`output`, weights, model, hyperparameters) are expanded when the spec is
loaded. `data` is kept as it is written: it is expanded on each node, where a site may put a copy of the dataset. Text
that exists as a path is no variable.
"""

from __future__ import annotations

import os

import msgspec

from hpc_yolo.core.variables import is_of_job, variables_in
from hpc_yolo.spec.problems import Finding
from hpc_yolo.spec.schema import Spec

EVERYWHERE = {
    "output": "a directory that the nodes see too, such as $HOME/runs",
    "weights": "a file that the nodes see too, such as $HOME/yolov5s.pt",
    "model": "a name, or a YAML of layers",
    "train.hyp": "a name, or a file of hyperparameters",
}


def has_variables(path: str) -> bool:
    """Return True if `path` has variables that are to be expanded."""
    return bool(variables_in(path)) and not os.path.exists(path)  # noqa: PTH110, it takes any text


def with_expanded_paths(spec: Spec) -> tuple[Spec, list[Finding]]:
    """Return (`spec` with the values of the variables in its paths but `data`, the problems of all of its paths)."""
    on_nodes = spec.cluster.executor in ("auto", "slurm")
    findings: list[Finding] = []
    values = {"output": spec.output, "weights": spec.weights, "model": spec.model, "train.hyp": spec.train.hyp}
    for field, written in values.items():
        if has_variables(written):
            values[field] = os.path.expandvars(os.path.expanduser(written))  # noqa: PTH111, it takes any text
            findings += _findings(field, written, values[field], on_nodes=on_nodes)
    if has_variables(spec.data) and not os.path.isabs(spec.data) and not spec.data.startswith(("$", "~")):  # noqa: PTH117
        message = f"{spec.data!r} depends on a variable and on the working directory"
        findings.append(Finding("data", message, "an absolute path, such as $SLURM_TMPDIR/coco.yaml"))
    train = msgspec.structs.replace(spec.train, hyp=values["train.hyp"])
    return msgspec.structs.replace(
        spec, output=values["output"], weights=values["weights"], model=values["model"], train=train
    ), findings


def _findings(field: str, written: str, value: str, *, on_nodes: bool) -> list[Finding]:
    """Return the problem of the first variable in `written` that is not set here, or has a value only in a job."""
    unset = set(variables_in(value))
    for name in variables_in(written):
        if on_nodes and is_of_job(name):
            message = f"{written!r}: {name} differs between this machine, the jobs of the run and their nodes"
            return [Finding(field, message, EVERYWHERE[field])]
        if name in unset:
            message = f"{written!r}: the variable {name} is not set on this machine"
            return [Finding(field, message, f"set it, or write the path: {EVERYWHERE[field]}")]
    return []
