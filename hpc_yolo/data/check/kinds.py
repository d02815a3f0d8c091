"""The kinds of findings: severity, meaning and remedy of each."""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
# Boxes
MAX_BEYOND_PIXELS = 1.0
MIN_SIDE_PIXELS = 2  # at the size of the training; see `augment.MIN_SIDE_PIXELS`
MAX_ASPECT = 20
SAME_BOX_IOU = 0.95


class Kind(NamedTuple):
    """A kind of finding.

    Attributes:
        severity: error: training leaves something out; warning: probably a mistake; note: good to know.
        noun: the thing that is counted.
        meaning: continues "12 images ...".
        remedy: the next step; "" where none is needed.
    """

    name: str
    severity: Severity
    noun: str
    meaning: str
    remedy: str = ""

    def counted(self, number: int) -> str:
        """Return a number of things with their noun: "1 box", "2 boxes"."""
        if number == 1:
            return f"1 {self.noun}"
        ending = "ies" if self.noun.endswith("y") else "es" if self.noun[-1] in "sx" else "s"
        return f"{number} {self.noun.removesuffix('y')}{ending}"


FIX = "--fix DIR writes corrected labels into a new directory"

KINDS = {
    kind.name: kind
    for kind in (
        Kind("split", "error", "split", "cannot be read", "correct its path in the dataset YAML"),
        Kind(
            "unlisted-image",
            "error",
            "entry",
            "without an image: left out",
            "correct the paths in the list, or remove the lines",
        ),
        Kind(
            "unusable-image",
            "error",
            "image",
            "not decodable completely, or too small: left out",
            "copy the files again from their source, or remove them; --fix DIR leaves them out",
        ),
        Kind(
            "invalid-label",
            "error",
            "label",
            "not valid: the image is left out",
            f"correct the lines; {FIX}: boxes clipped, other invalid lines dropped",
        ),
        Kind(
            "unreadable-labels",
            "error",
            "label file",
            "not readable, or under another name: the image is left out",
            "rename, correct or replace the file",
        ),
        Kind(
            "no-labels",
            "error",
            "split",
            "without any object: training stops with an error",
            "check where labels are looked for, see the first example",
        ),
        Kind(
            "leak",
            "warning",
            "image",
            "with the same content as one of another split: metrics are too good",
            "remove them from one split; --fix DIR keeps them in the last: test, else val",
        ),
        Kind(
            "near-leak",
            "warning",
            "image",
            "almost the same as one of another split: metrics may be too good",
            "look at the pairs with --html FILE; split by scene or video instead of by image",
        ),
        Kind(
            "duplicate",
            "warning",
            "image",
            "with the same content as another of the split: counted twice in training",
            "remove all but one; --fix DIR keeps the first, with valid labels if one has them",
        ),
        Kind(
            "contradicting-labels",
            "warning",
            "image",
            "with the same content as another of the split but other labels",
            "keep the image whose labels are right; --fix DIR keeps the first whose labels are valid",
        ),
        Kind("near-duplicate", "note", "image", "almost the same as another of the split", "--html FILE shows pairs"),
        Kind(
            "missing-labels",
            "warning",
            "image",
            "without labels in the dataset: used as background",
            "add the labels, or an empty label file where there is no object",
        ),
        Kind("background", "note", "image", "with labels of no object: used as background"),
        Kind(
            "class-without-objects",
            "warning",
            "class",
            "without an object in the split",
            "a class without training objects is never detected, one without validation objects not measured",
        ),
        Kind(
            "beyond-frame",
            "warning",
            "box",
            f"more than {MAX_BEYOND_PIXELS:.0f} pixel beyond the image: training clips it",
            f"were the labels made for another size or rotation? {FIX}: boxes clipped",
        ),
        Kind("no-area", "warning", "box", "of width or height 0: never learned", f"{FIX}: such boxes dropped"),
        Kind(
            "tiny-box",
            "warning",
            "box",
            f"narrower than {MIN_SIDE_PIXELS} pixels at the size of the training: not learned there",
            "train at a larger size (--imgsz here, train.imgsz in the spec), or cut images into tiles",
        ),
        Kind(
            "extreme-aspect",
            "note",
            "box",
            f"more than {MAX_ASPECT} times longer than wide",
            "look at them with --html FILE; some are slips of the mouse",
        ),
        Kind(
            "repeated-box",
            "warning",
            "box",
            f"repeated in the image: same class, overlap (IoU) at least {SAME_BOX_IOU}",
            f"{FIX}: the first is kept",
        ),
        Kind(
            "two-classes",
            "warning",
            "box",
            f"labelled with two classes: overlap (IoU) at least {SAME_BOX_IOU}",
            "decide which class is right: training learns both as wrong half of the time",
        ),
        Kind("no-end-mark", "note", "image", "a JPEG without an end mark: used, since all pixels exist"),
        Kind("remark", "note", "remark", "on the dataset"),
    )
}
