"""The section `checkpoint`: when the state of a run is saved."""

from typing import Annotated

from msgspec import Meta

from hpc_yolo.spec.section import NotNegative, Positive, Section


class CheckpointSpec(Section, frozen=True, kw_only=True):
    """When the state is saved, besides at a signal and at the end."""

    every_epochs: Annotated[
        NotNegative, Meta(description="Epochs from one checkpoint to the next; 0: only after the last one.")
    ] = 1
    every_s: Annotated[Positive | None, Meta(description="Seconds from one checkpoint to the next.")] = 30
    every_steps: Annotated[Positive | None, Meta(description="Steps from one checkpoint to the next.")] = None
    keep_last: Annotated[Positive, Meta(description="Training states kept besides the best model.")] = 3
