"""The trackers by name."""

from __future__ import annotations

from collections.abc import Mapping

from hpc_yolo.spec.tracking import TrackingSpec
from hpc_yolo.tracking.csv_file import CsvTracker
from hpc_yolo.tracking.event_file import EventFileTracker
from hpc_yolo.tracking.mlflow_run import MlflowTracker
from hpc_yolo.tracking.tracker import Tracker
from hpc_yolo.tracking.trackio_run import TrackioTracker
from hpc_yolo.tracking.wandb_run import WandbTracker


def new_tracker(spec: TrackingSpec, environ: Mapping[str, str]) -> Tracker:
    """Return a tracker as `spec` requests it.

    Args:
        environ: environment variables of this process.

    Raises:
        InstallationError: its package is not installed.
    """
    match spec.to:
        case "csv":
            return CsvTracker()
        case "tensorboard":
            return EventFileTracker()
        case "mlflow":
            return MlflowTracker(spec.project, spec.uri)
        case "trackio":
            return TrackioTracker(spec.project)
        case "wandb":
            return WandbTracker(spec.project, is_offline=spec.offline, environ=environ)
