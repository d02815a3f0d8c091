"""The section `sweep`: many trials from one spec, each a run with values of its own for some fields."""

from typing import Annotated

from msgspec import Meta, field

from hpc_yolo.spec.section import NotNegative, Positive, Section
from hpc_yolo.spec.sweep_search import SearchSpec, StopSpec, Value

MAX_TRIALS = 100_000


class SweepSpec(Section, frozen=True, kw_only=True):
    """The trials of a sweep: each combination of `grid`, with each of `variants` and each of `seeds`; or a search."""

    grid: Annotated[
        dict[str, list[Value]],
        Meta(description="Values for each dotted field, such as train.hyp_overrides.lr0."),
    ] = field(default_factory=dict)
    variants: Annotated[
        list[dict[str, Value]],
        Meta(description="Groups of dotted fields with values that belong together; each is combined with the grid."),
    ] = field(default_factory=list)
    seeds: Annotated[
        Positive | list[NotNegative] | None,
        Meta(description="Seeds (train.seed) of each combination: a list, or their number, counted from train.seed."),
    ] = None
    search: Annotated[SearchSpec | None, Meta(description="Draws the values of the trials, instead of the above.")] = (
        None
    )
    stop: Annotated[StopSpec | None, Meta(description="Ends running trials that do worse than others.")] = None
    limit: Annotated[Positive | None, Meta(description="Trials that run at once; null: as many as Slurm starts.")] = (
        None
    )
    budget_gpu_hours: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(
            description="Hours of GPUs, or of tasks without one, after which no further trial starts; null: no limit."
        ),
    ] = None
