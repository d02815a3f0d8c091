"""The section `train` of a spec; see `schema`."""

from typing import Annotated, Literal

from msgspec import Meta, field

from hpc_yolo.spec.device import read_device
from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.spec.section import MAY_CHANGE, WHERE_IT_RUNS, Fraction, NotNegative, Positive, Section

DEVICE_PATTERN = r"^(auto|cpu|[0-9]+(,[0-9]+)*)$"
DEVICE_ALLOWED = "auto, cpu, or numbers of GPUs such as 0,1"
AUTO_CACHE_FRACTION = 0.25  # of the free memory, into which all decoded images must fit with train.cache: auto
MEASURED_BATCH = -1  # train.batch: as many images as fit


class TrainSpec(Section, frozen=True, kw_only=True):
    """How the detector learns."""

    epochs: Annotated[Positive, MAY_CHANGE, Meta(description="Passes over the training set.")] = 100
    batch: Annotated[
        Annotated[int, Meta(ge=-1)],
        Meta(description="Images of one step over all ranks; a multiple of the world size; -1 measures."),
    ] = 16
    imgsz: Annotated[
        Annotated[int, Meta(ge=32, le=8192, multiple_of=32)],
        Meta(description="Side of the square training image in pixels; a multiple of 32 (64 for the six family)."),
    ] = 640
    device: Annotated[
        Annotated[str, Meta(pattern=DEVICE_PATTERN, extra={"allowed": DEVICE_ALLOWED, "read": read_device})],
        WHERE_IT_RUNS,
        Meta(description="auto, cpu, or the GPUs of one machine by number, such as 0,1."),
    ] = "auto"
    precision: Annotated[
        Literal["auto", "fp32", "fp16", "bf16", "fp64"],
        Meta(
            description="Arithmetic; auto: mixed where the device has it, fp32 on CPUs; fp64 to compare runs exactly."
        ),
    ] = "auto"
    cuda_graphs: Annotated[
        bool,
        WHERE_IT_RUNS,
        Meta(
            description="On NVIDIA GPUs, launch the passes of the model as CUDA graphs: small models and batches are "
            "then not bound by the host. Not with multi_scale, rect, sync_bn, or if they take over 40 % of the memory."
        ),
    ] = True
    sync_bn: Annotated[
        bool, Meta(description="Batch normalisation over the batches of all ranks; pays at 8 images a rank or fewer.")
    ] = False
    optimizer: Annotated[Literal["SGD", "Adam", "AdamW"], Meta(description="Optimiser.")] = "SGD"
    cos_lr: Annotated[bool, Meta(description="Cosine learning rate schedule instead of a linear one.")] = False
    legacy_lr_schedule: Annotated[
        bool, Meta(description="Learning rate one epoch behind its formula after warm-up, as in YOLOv5 v7.0.")
    ] = False
    hyp: Annotated[
        str,
        Meta(
            description="Hyperparameters: a name in configs/hyp or a file; auto: the set that the YAML of the model "
            "names, such as af-low of yolov5n-af, else scratch-low."
        ),
    ] = "auto"
    hyp_overrides: Annotated[dict[str, float], Meta(description="Single hyperparameters instead of the file's.")] = (
        field(default_factory=dict)
    )
    workers: Annotated[
        NotNegative, WHERE_IT_RUNS, Meta(description="Loader processes of each rank, at most its CPU cores.")
    ] = 8
    seed: Annotated[NotNegative, Meta(description="Seed of everything random.")] = 0
    deterministic: Annotated[bool, Meta(description="Only operations that give the same result every time.")] = True
    patience: Annotated[
        NotNegative,
        MAY_CHANGE,
        Meta(description="Epochs without a better evaluation after which training ends; 0: never."),
    ] = 100
    multi_scale: Annotated[bool, Meta(description="Vary the image size by half from step to step.")] = False
    rect: Annotated[bool, Meta(description="Train on rectangles instead of mosaics.")] = False
    cache: Annotated[
        Literal["auto", "none", "ram", "disk"],
        WHERE_IT_RUNS,
        Meta(
            description="Keep decoded images after their first use, once per node: ram: in memory; disk: on the "
            "node's local disk, also for later attempts; auto: in memory, if they need at most a quarter of what is "
            "free."
        ),
    ] = "auto"
    augment_device: Annotated[
        Literal["auto", "cpu", "gpu"],
        WHERE_IT_RUNS,
        Meta(
            description="Where training images are augmented: by the loader processes (cpu), or, with the same values, "
            "on the GPU (gpu); auto: on the GPU if there is one, it has kernels for that, and no image is rotated, "
            "sheared or seen in perspective."
        ),
    ] = "auto"
    freeze: Annotated[
        NotNegative | list[NotNegative],
        Meta(description="Layers that are frozen: the number of first ones, or a list of their indices."),
    ] = 0
    single_cls: Annotated[bool, Meta(description="Treat all classes as one.")] = False
    image_weights: Annotated[
        bool, Meta(description="Draw images by how badly their classes are detected; one task only.")
    ] = False
    autoanchor: Annotated[
        bool, Meta(description="Check before the first step that the anchors fit the labels, and find better ones.")
    ] = True
    data_parallel: Annotated[
        bool, Meta(description="One process for all GPUs of this machine: slower than one task a GPU.")
    ] = False
    label_smoothing: Annotated[Fraction, Meta(description="How far class targets keep from 0 and 1.")] = 0.0
    val_every: Annotated[
        NotNegative, MAY_CHANGE, Meta(description="Epochs from one evaluation to the next; 0: only after the last one.")
    ] = 1
    log_every_steps: Annotated[
        Positive | Literal["auto"],
        MAY_CHANGE,
        Meta(description="Steps from one log line to the next; auto: a tenth of an epoch, 50 at most."),
    ] = "auto"
    save_period: Annotated[
        Annotated[int, Meta(ge=-1)],
        MAY_CHANGE,
        Meta(description="Keep the model after every N epochs; -1: only best and last."),
    ] = -1
    on_nonfinite: Annotated[
        Literal["stop", "skip", "rollback"],
        Meta(
            description="When loss or gradients are not finite: end; drop that step; or go back to the last checkpoint "
            "and pass over it. The last two wait for the device at every step."
        ),
    ] = "stop"
    tensorboard: Annotated[
        bool, WHERE_IT_RUNS, Meta(description="Write TensorBoard event files too; needs the package tensorboard.")
    ] = False
    plots: Annotated[
        bool,
        WHERE_IT_RUNS,
        Meta(description="Draw charts and images into results/ after the training; false: write their numbers only."),
    ] = True
    start_timeout_s: Annotated[
        Positive, WHERE_IT_RUNS, Meta(description="Seconds that ranks wait for each other at the start of an attempt.")
    ] = 600
    stall_timeout_s: Annotated[
        Annotated[int, Meta(ge=10)] | Literal["auto"],
        WHERE_IT_RUNS,
        Meta(
            description="Seconds without progress after which a hanging attempt is ended; auto: 45, or five times the "
            "longest so far. The first step has start_timeout_s."
        ),
    ] = "auto"

    def augments_on_gpu(self, hyp: Hyperparameters, *, has_gpu: bool) -> bool:
        """Return True if training images are augmented on the GPU, which with auto takes one that has the kernels.

        They scale and shift images. Warping them takes most of the time of a step of a small model there.
        """
        if self.augment_device == "auto":
            return has_gpu and not hyp.warps
        return self.augment_device == "gpu"

    def replays_graphs(self, world_size: int) -> bool:
        """Return True if GPUs launch the passes of the model as CUDA graphs.

        All batches must have one shape, and the forward pass no sums over ranks.
        """
        is_apart = world_size == 1 or not self.sync_bn
        return self.cuda_graphs and is_apart and not (self.multi_scale or self.rect or self.data_parallel)
