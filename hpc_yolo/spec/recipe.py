"""The hyperparameters of the recipe, each with a sentence and its range. Their files are read in `hyperparameters`.

Annotations are not strings here, as in `schema`.
"""

from typing import Annotated

from msgspec import Meta

from hpc_yolo.spec.section import Fraction, NotNegative, Section


class Hyperparameters(Section, frozen=True, kw_only=True):
    """The recipe's numbers, from a file in configs/hyp with `train.hyp_overrides` on top."""

    lr0: Annotated[Annotated[float, Meta(gt=0, le=1)], Meta(description="Learning rate after warm-up.")] = 0.01
    lrf: Annotated[Annotated[float, Meta(gt=0, le=1)], Meta(description="Last learning rate as a fraction of lr0.")] = (
        0.01
    )
    momentum: Annotated[Fraction, Meta(description="Momentum of SGD, beta1 of Adam.")] = 0.937
    weight_decay: Annotated[Fraction, Meta(description="L2 decay of convolution weights, for 64 images a step.")] = (
        0.0005
    )
    warmup_epochs: Annotated[Annotated[float, Meta(ge=0)], Meta(description="Epochs of warm-up.")] = 3.0
    warmup_momentum: Annotated[Fraction, Meta(description="Momentum at the first step.")] = 0.8
    warmup_bias_lr: Annotated[Fraction, Meta(description="Learning rate of biases at the first step.")] = 0.1
    box: Annotated[Annotated[float, Meta(ge=0)], Meta(description="Gain of the box term.")] = 0.05
    cls: Annotated[Annotated[float, Meta(ge=0)], Meta(description="Gain of the class term.")] = 0.5
    cls_pw: Annotated[Annotated[float, Meta(gt=0)], Meta(description="Weight of positives in the class term.")] = 1.0
    obj: Annotated[Annotated[float, Meta(ge=0)], Meta(description="Gain of the objectness term.")] = 1.0
    obj_pw: Annotated[Annotated[float, Meta(gt=0)], Meta(description="Weight of positives in objectness.")] = 1.0
    iou: Annotated[Annotated[float, Meta(ge=0)], Meta(description="Gain of the box term of an anchor-free head.")] = 7.5
    dfl: Annotated[
        Annotated[float, Meta(ge=0)], Meta(description="Gain of the distribution term of an anchor-free head.")
    ] = 1.5
    anchor_t: Annotated[
        Annotated[float, Meta(gt=1)], Meta(description="Largest ratio of a box's side to its anchor's.")
    ] = 4.0
    anchors: Annotated[
        Annotated[float, Meta(ge=1)] | None, Meta(description="Anchors a level, instead of the model's.")
    ] = None
    fl_gamma: Annotated[Annotated[float, Meta(ge=0)], Meta(description="Gamma of the focal loss; 0: none.")] = 0.0
    hsv_h: Annotated[Fraction, Meta(description="Largest change of hue, as a fraction.")] = 0.015
    hsv_s: Annotated[Fraction, Meta(description="Largest change of saturation, as a fraction.")] = 0.7
    hsv_v: Annotated[Fraction, Meta(description="Largest change of value, as a fraction.")] = 0.4
    degrees: Annotated[Annotated[float, Meta(ge=0, le=180)], Meta(description="Largest rotation in degrees.")] = 0.0
    translate: Annotated[Fraction, Meta(description="Largest shift, as a fraction of the side.")] = 0.1
    scale: Annotated[Fraction, Meta(description="Largest change of size, as a fraction.")] = 0.5
    shear: Annotated[Annotated[float, Meta(ge=0, lt=90)], Meta(description="Largest shear in degrees.")] = 0.0
    perspective: Annotated[Annotated[float, Meta(ge=0, le=0.001)], Meta(description="Largest perspective.")] = 0.0
    flipud: Annotated[Fraction, Meta(description="Probability of an up-down flip.")] = 0.0
    fliplr: Annotated[Fraction, Meta(description="Probability of a left-right flip.")] = 0.5
    mosaic: Annotated[Fraction, Meta(description="Probability of a mosaic of four images.")] = 1.0
    close_mosaic: Annotated[
        NotNegative,
        Meta(
            description="Last epochs of the run without mosaics, and so without mixup and copy_paste, which change "
            "only mosaics; 0: mosaics to the end."
        ),
    ] = 0
    mixup: Annotated[Fraction, Meta(description="Probability that a mosaic is blended with another.")] = 0.0
    copy_paste: Annotated[Fraction, Meta(description="Probability of copied objects; needs polygons.")] = 0.0

    @property
    def warps(self) -> bool:
        """Whether images may be rotated, sheared or seen in perspective, and not only scaled and shifted."""
        return bool(self.degrees or self.shear or self.perspective)

    def mosaic_in(self, epoch: int, epochs: int) -> float:
        """Return the probability of a mosaic in `epoch`, from 0, of a run of `epochs`."""
        return 0.0 if epochs - self.close_mosaic <= epoch < epochs else self.mosaic
