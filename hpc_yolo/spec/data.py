"""The section `data`: the dataset of a run, and how its images reach the tasks."""

from typing import Annotated

from msgspec import Meta

from hpc_yolo.spec.section import Section

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
