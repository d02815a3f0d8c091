"""A spec of the best trial of a sweep, with its origin."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hpc_yolo.core.errors import RunError
from hpc_yolo.core.files import write_atomic
from hpc_yolo.launch.trial import trial_spec
from hpc_yolo.runs.metrics import Metrics
from hpc_yolo.runs.sweep import SweepDirectory
from hpc_yolo.spec.load import dump_spec, load_resolved_spec
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.trials import Values, shown


def best_spec(sweep: SweepDirectory, name: str, values: Values, metrics: Metrics | None, target: Path) -> Spec:
    """Write a spec of the trial `name` to `target` and return it: the run has the name of the sweep with -best.

    Raises:
        RunError: the file exists, or cannot be written.
    """
    of_sweep = load_resolved_spec(sweep.spec)
    spec = trial_spec(sweep, sweep.trial(name))
    spec = msgspec.structs.replace(spec, name=f"{sweep.name}-best", output=of_sweep.output)
    score = "" if metrics is None else f", mAP50-95 {metrics.map50_95:.4f}"
    origin = f"# Trial {name} of {sweep.path}: {shown(values)}{score}.\n"
    if target.exists():
        raise RunError(f"{target} exists", hint="name another file")
    try:
        write_atomic(target, origin + dump_spec(spec))
    except OSError as error:
        raise RunError(f"{target}: cannot be written: {error.strerror}", hint="name another file") from error
    return spec
