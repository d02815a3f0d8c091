"""The section `data`: the dataset of a run, and how its images reach the tasks."""

from typing import Annotated, Literal

from msgspec import Meta

from hpc_yolo.spec.section import WHERE_IT_RUNS, Section

OFF, AUTO = "off", "auto"
EPOCH: Literal["epoch"] = "epoch"
WINDOW: Literal["window"] = "window"
DATA_ALLOWED = "a dataset YAML, or a section with its path"


class DataSpec(Section, frozen=True, kw_only=True):
    """The dataset of a run; in a spec also written as its path alone."""

    path: Annotated[
        str,
        Meta(
            description="Dataset YAML (path, train, val, names): a file, or a name in configs/data. $NAME, ${NAME} and "
            "~ in front, here and in its paths, are expanded on each node."
        ),
    ]
    stage: Annotated[
        str,
        WHERE_IT_RUNS,
        Meta(
            description="Copy the images to each node before the training: off; a directory of the nodes such as "
            "$SLURM_TMPDIR or /dev/shm; or auto, in Slurm jobs and from a file system of several machines only: "
            "paths.local of the site profile, else the first of $SLURM_TMPDIR, $LOCAL_SCRATCH, $TMPDIR and /dev/shm "
            "with room."
        ),
    ] = OFF
    size_limit: Annotated[
        str | None,
        WHERE_IT_RUNS,
        Meta(description="Largest amount of data to copy, such as 100G; a larger dataset is read where it is."),
    ] = None
    mosaic_partners: Annotated[
        Literal["epoch", "window"],
        Meta(
            description="Images that make up a mosaic with one: any (epoch), or of the 16 before it in the order of "
            "the epoch (window), so that a loader worker decodes most images once instead of four times."
        ),
    ] = EPOCH
