"""The section `tracking`: the tracker that shows a run, from its journal."""

from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from hpc_yolo.spec.problems import Finding
from hpc_yolo.spec.section import Section

TRACKERS = ("wandb", "mlflow", "tensorboard", "csv", "trackio")
DEFAULT_PROJECT = "hpc-yolo"


class TrackingSpec(Section, frozen=True, kw_only=True, rename={"where": "in"}):
    """The tracker that gets the values of the run. Its key is read from its own place, never from the spec."""

    to: Annotated[Literal["wandb", "mlflow", "tensorboard", "csv", "trackio"], Meta(description="Name of the tracker.")]
    project: Annotated[
        str, Meta(description="Project (wandb, trackio; entity/project for wandb) or experiment (mlflow).")
    ] = DEFAULT_PROJECT
    uri: Annotated[
        str | None,
        Meta(description="Server or database of mlflow. Default: that of its environment, MLFLOW_TRACKING_URI."),
    ] = None
    offline: Annotated[
        bool, Meta(description="For wandb: write a directory for wandb sync even where a key is found.")
    ] = False
    where: Annotated[
        Literal["job", "submit"],
        Meta(
            description="Who starts it in Slurm: each job, beside the tasks on its first node, or submit --follow on "
            "the host that submits. A local run starts it in both cases."
        ),
    ] = "job"


def tracking_findings(tracking: TrackingSpec | None) -> Iterator[Finding]:
    """Yield what is wrong with the section `tracking`."""
    if tracking is None:
        return
    if tracking.uri is not None and tracking.to != "mlflow":
        yield Finding("tracking.uri", f"is for mlflow, and tracking.to is {tracking.to}", "leave it out")
    if tracking.offline and tracking.to != "wandb":
        yield Finding("tracking.offline", f"is for wandb, and tracking.to is {tracking.to}", "leave it out")
    if not tracking.project.strip("/ ") or tracking.project.count("/") > (tracking.to == "wandb"):
        allowed = "a name; for wandb also entity/project"
        yield Finding("tracking.project", f"{tracking.project!r} is not the name of a project", allowed)


def has_password(uri: str) -> bool:
    """Return whether an address has a password; one in a spec is refused as any key."""
    try:
        return urlsplit(uri).password is not None
    except ValueError:
        return False
