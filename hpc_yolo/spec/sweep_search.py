"""The sections `sweep.search` and `sweep.stop`: values that a sampler draws, and the rule that ends running trials.

Their rules are in `search_rules`, which fields may vary in `varied_fields`.
"""

from typing import Annotated, Literal

from msgspec import Meta

from hpc_yolo.spec.section import NotNegative, Positive, Section

EVOLVE = "evolve"

Number = int | float
Value = int | float | bool | str


class Range(Section, frozen=True, kw_only=True):
    """Values from `low` to `high`, both included; whole numbers for a field of whole numbers."""

    low: Annotated[Number, Meta(description="Lowest value.")]
    high: Annotated[Number, Meta(description="Highest value.")]
    log: Annotated[bool, Meta(description="Draw evenly on a logarithmic scale; low must be over 0.")] = False
    step: Annotated[Number | None, Meta(description="Distance of the values from low on; not with log.")] = None


Space = dict[str, Range | list[Value]]


class SearchSpec(Section, frozen=True, kw_only=True):
    """Trials whose values are drawn from a space, each when it starts."""

    method: Annotated[
        Literal["random", "tpe"],
        Meta(
            description="random: each trial alone; tpe: near the best so far, by the tree-structured Parzen estimator "
            "of Optuna, which is installed with hpc-yolo[sweep]."
        ),
    ] = "tpe"
    trials: Annotated[Positive, Meta(description="Number of trials.")]
    space: Annotated[
        Literal["evolve"] | Space,
        Meta(
            description="Range ({low, high, log, step}) or list of values for each dotted field; evolve: the "
            "hyperparameters and ranges of YOLOv5's --evolve."
        ),
    ]
    seed: Annotated[NotNegative, Meta(description="Seed of the sampler; train.seed is that of the trials.")] = 0

    @property
    def ranges(self) -> Space:
        """The space by dotted field, that of `evolve` too."""
        return dict(EVOLVE_SPACE) if isinstance(self.space, str) else self.space


class StopSpec(Section, frozen=True, kw_only=True):
    """The rule that ends a trial at an evaluation, compared with the other trials of the sweep."""

    rule: Annotated[
        Literal["median", "asha"],
        Meta(
            description="median: the best value so far is under the median of the other trials' means up to that "
            "epoch; asha: the value is not among the best 1/factor that have reached that epoch."
        ),
    ]
    metric: Annotated[
        Literal["fitness", "map50", "map50_95", "precision", "recall"],
        Meta(description="Metric to compare; fitness is 0.1 mAP50 + 0.9 mAP50-95."),
    ] = "fitness"
    after: Annotated[Positive, Meta(description="Epochs that every trial trains; the first ends after them.")] = 10
    factor: Annotated[
        Annotated[int, Meta(ge=2)],
        Meta(description="Of asha: it compares after `after` epochs, factor times as many, and so on."),
    ] = 3


# Ranges of the hyperparameters that YOLOv5 v7.0 mutates. It multiplies a value by a random factor: those whose range
# does not begin at 0 are on a logarithmic scale here. `anchors` is left out: another number of anchors changes the
# shape of the head, so that initial weights no longer fit.
_MULTIPLIED = {
    "lr0": (1e-5, 0.1),
    "lrf": (0.01, 1.0),
    "momentum": (0.6, 0.98),
    "box": (0.02, 0.2),
    "cls": (0.2, 4.0),
    "cls_pw": (0.5, 2.0),
    "obj": (0.2, 4.0),
    "obj_pw": (0.5, 2.0),
    "anchor_t": (2.0, 8.0),
}
_FROM_ZERO = {
    "weight_decay": 0.001,
    "warmup_epochs": 5.0,
    "warmup_momentum": 0.95,
    "warmup_bias_lr": 0.2,
    "hsv_h": 0.1,
    "hsv_s": 0.9,
    "hsv_v": 0.9,
    "degrees": 45.0,
    "translate": 0.9,
    "scale": 0.9,
    "shear": 10.0,
    "flipud": 1.0,
    "mosaic": 1.0,
    "mixup": 1.0,
    "copy_paste": 1.0,
}
EVOLVE_SPACE: dict[str, Range | list[Value]] = {
    f"train.hyp_overrides.{name}": kind
    for name, kind in (
        *((name, Range(low=low, high=high, log=True)) for name, (low, high) in _MULTIPLIED.items()),
        *((name, Range(low=0.0, high=high)) for name, high in _FROM_ZERO.items()),
    )
}
