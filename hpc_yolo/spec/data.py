"""The section `data`: the dataset of a run, and how its images reach the tasks."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from hpc_yolo.spec.section import WHERE_IT_RUNS, Section

OFF, AUTO = "off", "auto"
YOLO: Literal["yolo"] = "yolo"
KEEP: Literal["keep"] = "keep"
EPOCH: Literal["epoch"] = "epoch"
WINDOW: Literal["window"] = "window"
DATA_ALLOWED = "a dataset YAML, or a section with its path"
Paths = list[str] | str


class DataSpec(Section, frozen=True, kw_only=True):
    """The dataset of a run; in a spec also written as the path of its YAML alone.

    Without a dataset YAML, `train` and the fields after it are what that would have, with the same meaning.
    """

    # Fields of a dataset YAML, and those of them that are paths: of labels, and of other files.
    INLINE: ClassVar[tuple[str, ...]] = (
        "train",
        "val",
        "test",
        "format",
        "images",
        "annotations",
        "names",
        "difficult",
    )
    LABEL_FILES: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    DIRECTORIES: ClassVar[tuple[str, ...]] = ("images", "annotations")

    path: Annotated[
        str,
        Meta(
            description="Dataset YAML (path, train, val, names): a file, or a name in configs/data. $NAME, ${NAME} and "
            "~ in front, here and in its paths, are expanded on each node."
        ),
    ] = ""
    train: Annotated[
        Paths,
        Meta(
            description="Instead of path: the training set, such as instances_train2017.json with format: coco; one "
            "file or directory, or a list."
        ),
    ] = ""
    val: Annotated[Paths, Meta(description="The validation set, with train.")] = ""
    test: Annotated[Paths, Meta(description="A further set that stages may evaluate, with train.")] = ""
    format: Annotated[
        Literal["yolo", "coco", "voc"], Meta(description="Format of the labels of train, val and test.")
    ] = YOLO
    images: Annotated[
        str,
        Meta(description="Directory of the images of coco and voc; by default those beside the labels are found."),
    ] = ""
    annotations: Annotated[str, Meta(description="Directory of the XML files of voc; by default Annotations.")] = ""
    names: Annotated[
        list[str],
        Meta(description="Names of the classes of train; by default those that the labels of coco and voc have."),
    ] = field(default_factory=list)
    difficult: Annotated[
        Literal["keep", "drop"], Meta(description="Use objects that voc marks as difficult, or leave them out.")
    ] = KEEP
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

    @property
    def is_inline(self) -> bool:
        """True for a dataset without a dataset YAML."""
        return bool(self.train)

    @property
    def label_paths(self) -> list[str]:
        """Paths of the label files of all splits of an inline dataset, as they are written."""
        return [path for name in self.LABEL_FILES for path in _listed(getattr(self, name))]

    @property
    def paths(self) -> list[str]:
        """All paths, as they are written: of the dataset YAML, or of an inline dataset."""
        if not self.is_inline:
            return [self.path]
        return [*self.label_paths, *(path for name in self.DIRECTORIES if (path := getattr(self, name)))]

    @property
    def described(self) -> str:
        """The dataset in a few words, for messages: its YAML, or its training set."""
        return ", ".join(_listed(self.train)) if self.is_inline else self.path


def _listed(paths: Paths) -> list[str]:
    return paths if isinstance(paths, list) else [paths] if paths else []
