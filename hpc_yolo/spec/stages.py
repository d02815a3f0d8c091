"""The sections of `then`: a stage after the training of a run, with the options of the command that it runs.

A field is named after the option of that command (`hpc-yolo val --conf-thres` is `conf_thres`).
"""

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta, field, json

from hpc_yolo.spec.section import Fraction, NotNegative, Positive, Section

BEST, LAST = "best", "last"  # weights of the run; anything else is a file
JOB, OWN_JOB = "job", "job_of_its_own"

Weights = Annotated[str, Meta(description="Model: best or last of the run, or a file of weights.")]
ImageSize = Annotated[Positive | None, Meta(description="Longer side of images in pixels. Default: as trained.")]
SaveTxt = Annotated[bool, Meta(description="Write detections as label files.")]
SaveConf = Annotated[bool, Meta(description="With save_txt: confidences in a sixth column.")]
Augment = Annotated[bool, Meta(description="Test-time augmentation: three sizes, one mirrored; slower.")]
Half = Annotated[bool, Meta(description="Half precision, on a GPU.")]


class ValStage(Section, frozen=True, kw_only=True):
    """An evaluation, as by hpc-yolo val; its results are in results/<stage>."""

    split: Annotated[Literal["val", "test", "train"], Meta(description="Split of the run's dataset.")] = "val"
    weights: Weights = BEST
    imgsz: ImageSize = None
    batch_size: Annotated[Positive, Meta(description="Images of a batch.")] = 32
    conf_thres: Annotated[Fraction, Meta(description="Confidence threshold.")] = 0.001
    iou_thres: Annotated[Fraction, Meta(description="IoU threshold of NMS.")] = 0.6
    max_det: Annotated[Positive, Meta(description="Maximum detections of an image.")] = 300
    augment: Augment = False
    half: Half = False
    verbose: Annotated[bool, Meta(description="Print the metrics of each class even if there are many.")] = False
    save_json: Annotated[
        bool, Meta(description="Write COCO JSON; official metrics where its annotations are found.")
    ] = False
    save_txt: SaveTxt = False
    save_conf: SaveConf = False


class PredictStage(Section, frozen=True, kw_only=True):
    """Detections on other images, as by hpc-yolo predict; its results are in results/<stage>."""

    source: Annotated[
        str | list[str],
        Meta(description='Images or videos: a file, a directory, a "pattern", an address, or a list of them.'),
    ]
    weights: Weights = BEST
    imgsz: ImageSize = None
    conf_thres: Annotated[Fraction, Meta(description="Confidence threshold.")] = 0.25
    iou_thres: Annotated[Fraction, Meta(description="IoU threshold of NMS.")] = 0.45
    max_det: Annotated[Positive, Meta(description="Maximum detections of an image.")] = 1000
    classes: Annotated[
        str | None, Meta(description="Detect only these classes, numbers or names with commas between them.")
    ] = None
    augment: Augment = False
    half: Half = False
    vid_stride: Annotated[Positive, Meta(description="Process every Nth frame of a video.")] = 1
    nosave: Annotated[bool, Meta(description="Write no images.")] = False
    save_txt: SaveTxt = False
    save_conf: SaveConf = False
    save_crop: Annotated[bool, Meta(description="Write a crop of each detection, in a directory for each class.")] = (
        False
    )

    @property
    def sources(self) -> list[str]:
        """Each of the sources."""
        return [self.source] if isinstance(self.source, str) else self.source


class ExportStage(Section, frozen=True, kw_only=True):
    """Model files for other programs, as by hpc-yolo export; they are beside the weights."""

    include: Annotated[
        list[Literal["onnx", "torchscript"]], Meta(description="Forms to write: onnx, torchscript or both.")
    ] = field(default_factory=lambda: ["torchscript"])
    weights: Weights = BEST
    imgsz: ImageSize = None
    batch_size: Annotated[Positive, Meta(description="Images of a batch.")] = 1
    dynamic: Annotated[bool, Meta(description="Accept any number of images of any size.")] = False
    nms: Annotated[bool, Meta(description="Put the suppression into the file, which then returns boxes; onnx.")] = False
    conf_thres: Annotated[Fraction, Meta(description="With nms: least score of a box.")] = 0.25
    iou_thres: Annotated[Fraction, Meta(description="With nms: largest IoU of two boxes of a class.")] = 0.45
    max_det: Annotated[Positive, Meta(description="With nms: rows of boxes of an image.")] = 300
    opset: Annotated[Annotated[int, Meta(ge=12, le=20)], Meta(description="Version of the operators of ONNX.")] = 17


class ReportStage(Section, frozen=True, kw_only=True):
    """The HTML report of the run, as by hpc-yolo report. It has no options."""


class StageRequest(Section, frozen=True, kw_only=True):
    """The request of a small job beside or after the training: one node; the rest is as in the run's cluster."""

    time: Annotated[
        str | None, Meta(description="Time limit of the job. Default: that of the run, one hour at most.")
    ] = None
    gpus_per_node: Annotated[NotNegative | None, Meta(description="GPUs. Default: 1, for a run on CPUs 0.")] = None
    gpu_type: Annotated[str | None, Meta(description="Type of GPU to request.")] = None
    cpus_per_task: Annotated[Positive | None, Meta(description="CPU cores.")] = None
    mem: Annotated[
        str | None, Meta(description="Memory, such as 40G. Default: that of one task of the run, where it is known.")
    ] = None
    partition: Annotated[str | list[str] | None, Meta(description="Partition, or several.")] = None
    account: Annotated[str | None, Meta(description="Account to charge.")] = None
    qos: Annotated[str | None, Meta(description="Quality of service.")] = None
    constraint: Annotated[str | None, Meta(description="Features that the node must have.")] = None


class Stage(Section, frozen=True, kw_only=True, omit_defaults=True, rename={"where": "in"}):
    """One step after the training: exactly one of val, predict, export, report and shell."""

    val: Annotated[ValStage | None, Meta(description="Evaluate the model on a split.")] = None
    predict: Annotated[PredictStage | None, Meta(description="Detect objects on other images.")] = None
    export: Annotated[ExportStage | None, Meta(description="Write the model for other programs.")] = None
    report: Annotated[ReportStage | None, Meta(description="Write the HTML report of the run.")] = None
    shell: Annotated[
        str | None,
        Meta(description="Lines of bash, of which the first that fails ends the stage; $RUN is the run directory."),
    ] = None
    when: Annotated[
        Literal["success", "failure", "always"],
        Meta(description="Run it after a run that has finished, after one that ended otherwise, or after both."),
    ] = "success"
    where: Annotated[
        Literal["job", "job_of_its_own"],
        Meta(
            description="Run it on the first node of the run's job, if time is left, or as a small job after the run."
        ),
    ] = "job"
    cluster: Annotated[
        StageRequest | None, Meta(description="Request of a job of its own, where it differs from the default.")
    ] = None

    @property
    def kinds(self) -> list[str]:
        """Names of its steps; exactly one in a valid spec."""
        return [kind for kind in STEPS if getattr(self, kind) is not None]

    @property
    def kind(self) -> str:
        """Name of its step."""
        return self.kinds[0]

    @property
    def step(self) -> str:
        """Its step with all options as JSON text, to detect a change."""
        return json.encode({self.kind: getattr(self, self.kind)}).decode()

    @property
    def has_own_job(self) -> bool:
        """True for a stage that is a job of its own in Slurm."""
        return self.where == OWN_JOB


STEPS = ("val", "predict", "export", "report", "shell")


def named_stages(stages: Iterable[Stage]) -> dict[str, Stage]:
    """Return the stages by name: that of the step, with a number from the second of a kind on, as in val and val-2."""
    counts: Counter[str] = Counter()
    named = {}
    for stage in stages:
        counts[stage.kind] += 1
        number = counts[stage.kind]
        named[stage.kind if number == 1 else f"{stage.kind}-{number}"] = stage
    return named
