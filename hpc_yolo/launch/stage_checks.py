"""Checks of the stages before a submission: splits, weights, sources, shell lines, and the requests of their jobs."""

from __future__ import annotations

import glob
from pathlib import Path

from hpc_yolo.core.errors import SpecError
from hpc_yolo.data.dataset import SPLITS, dataset_content
from hpc_yolo.data.dataset_source import described, has_copy, source_of_run
from hpc_yolo.data.files import exists
from hpc_yolo.launch.stages import own_stage_jobs, require_accepted
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.paths import has_variables
from hpc_yolo.spec.schema import Spec
from hpc_yolo.spec.stage_rules import require_shell_stages
from hpc_yolo.spec.stages import BEST, LAST


def require_usable_stages(spec: Spec, run: RunDirectory, *, in_slurm: bool) -> None:
    """Check the stages of `spec` on this machine.

    Args:
        in_slurm: Slurm answers, and is asked about the jobs of stages.

    Raises:
        SpecError: weights or a source do not exist, shell lines are no bash, a split is not in the dataset.
        DataError: the dataset does not exist.
        ClusterError: Slurm refuses the job of a stage.
    """
    require_shell_stages(spec.then)
    for index, stage in enumerate(spec.then):
        for kind in stage.kinds:
            weights = getattr(getattr(stage, kind), "weights", BEST)
            if weights not in (BEST, LAST) and not Path(weights).is_file():
                raise SpecError(
                    f"then[{index}].{kind}.weights: {weights} does not exist", hint=f"{BEST}, {LAST}, or a file"
                )
        for source in () if stage.predict is None else stage.predict.sources:
            if not _exists(source):
                raise SpecError(f"then[{index}].predict.source: {source} does not exist on this machine")
    _require_splits(spec, run)
    if in_slurm:
        require_accepted(own_stage_jobs(run, spec))


def _exists(source: str) -> bool:
    """Return True for a source that exists, and for an address or a camera, which are not tried."""
    return "://" in source or source.isdecimal() or bool(glob.glob(source)) or Path(source).exists()  # noqa: PTH207


def _require_splits(spec: Spec, run: RunDirectory) -> None:
    """Check that the dataset has the splits that stages evaluate; paths with variables exist on the nodes only."""
    wanted = {
        stage.val.split: f"then[{index}].val.split" for index, stage in enumerate(spec.then) if stage.val is not None
    }
    is_here = has_copy(run) or not any(map(has_variables, spec.data.paths))
    if not wanted.keys() - {"train", "val"} or not is_here:  # the training needs those two as well
        return
    source = source_of_run(run, spec.data)
    content = dataset_content(source)
    there = [split for split in SPLITS if split in content]
    for split, field in wanted.items():
        if split not in there:
            raise SpecError(
                f"{field}: {described(source)} has no split {split}", hint=f"the dataset has {', '.join(there)}"
            )
        missing = [path for path in content[split] if not (has_variables(path) or exists(Path(path)))]
        if missing:
            raise SpecError(f"{field}: {missing[0]}, {split} of {described(source)}, does not exist")
