"""A run in MLflow: on the server or in the database that MLflow's own environment, or `uri`, names.

The metric `row` counts the rows. It is written with the last metrics of a row in one request, which a database takes in
whole or not at all, and its last value is the number of rows that MLflow has.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from hpc_yolo.core.files import sync_directory
from hpc_yolo.runs.run_end import RunEnd
from hpc_yolo.runs.series import Row
from hpc_yolo.tracking.tracker import TrackedRun, Tracker, imported, tracker_errors, without_user

ID_TAG = "hpc_yolo.id"
ROW = "row"
SQLITE = "sqlite:///"
MAX_METRICS = 1000  # of a request
MAX_PARAMETERS = 100
MAX_CHARACTERS = 500  # of a parameter, with older servers


class MlflowTracker(Tracker):
    """Finds the run by a tag with its id."""

    def __init__(self, project: str, uri: str | None) -> None:
        """Initialize the tracker.

        Args:
            project: name of the experiment.
            uri: of the server or database. Default: what MLflow chooses, by MLFLOW_TRACKING_URI.

        Raises:
            InstallationError: MLflow is not installed.
        """
        self._project, self._uri = project, uri
        tracking = imported("mlflow.tracking", "mlflow", "mlflow")
        self._entities: Any = imported("mlflow.entities", "mlflow", "mlflow")
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        with tracker_errors("mlflow", Exception):  # what a database raises is not MLflow's
            self._client: Any = tracking.MlflowClient(uri)
            _create_database(tracking.MlflowClient, self._client.tracking_uri)
        self._run_id = self._experiment_id = ""

    @property
    def location(self) -> str:
        """The address of the run on its server; the database, the experiment and the run."""
        address = without_user(self._client.tracking_uri)
        if address.startswith("http"):
            return f"{address}/#/experiments/{self._experiment_id}/runs/{self._run_id}"
        return f"{address}, experiment {self._project}, run {self._run_id}"

    def open(self, run: TrackedRun) -> int:
        """Find the run or create it, and return the number of its rows.

        Raises:
            TrackerError: MLflow refuses, or does not answer.
        """
        with tracker_errors("mlflow", Exception):
            self._experiment_id = self._experiment()
            found = self._client.search_runs([self._experiment_id], f"tags.`{ID_TAG}` = '{run.id}'")
            if found:
                self._run_id = found[0].info.run_id
                self._client.update_run(self._run_id, status="RUNNING")
            else:
                created = self._client.create_run(self._experiment_id, tags={ID_TAG: run.id}, run_name=run.name)
                self._run_id = created.info.run_id
            data = self._client.get_run(self._run_id).data
            self._log_config(run, known=data.params)
            return int(data.metrics.get(ROW, -1)) + 1

    def log(self, rows: Sequence[Row]) -> None:
        """Log the metrics of `rows`, whole rows in a request.

        Raises:
            TrackerError: MLflow refuses, or does not answer.
        """
        batch: list[Any] = []
        with tracker_errors("mlflow", Exception):
            for row in rows:
                metrics = list(self._metrics(row))
                if len(batch) + len(metrics) > MAX_METRICS:
                    self._client.log_batch(self._run_id, metrics=batch)
                    batch = []
                batch += metrics
            self._client.log_batch(self._run_id, metrics=batch)

    def close(self, end: RunEnd | None) -> None:
        """Set how the run has ended; one that goes on stays as running.

        Raises:
            TrackerError: MLflow refuses, or does not answer.
        """
        if end is not None and self._run_id:
            status = "FINISHED" if end.is_finished else "KILLED" if end.is_by_person else "FAILED"
            with tracker_errors("mlflow", Exception):
                self._client.set_terminated(self._run_id, status)

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._project)
        return str(found.experiment_id if found is not None else self._client.create_experiment(self._project))

    def _metrics(self, row: Row) -> Iterator[Any]:
        time_ms = round(row.time * 1000)
        for name, value in row.values.items():
            yield self._entities.Metric(name, value, time_ms, row.step)
        yield self._entities.Metric(ROW, row.index, time_ms, row.index)

    def _log_config(self, run: TrackedRun, known: dict[str, str]) -> None:
        """Log the parameters that are not known yet; MLflow lets no value change."""
        texts = {name: str(value)[:MAX_CHARACTERS] for name, value in run.flat_config.items() if name not in known}
        missing = iter([self._entities.Param(name, text) for name, text in texts.items()])
        while batch := list(islice(missing, MAX_PARAMETERS)):
            self._client.log_batch(self._run_id, params=batch)


def _create_database(new_client: Any, uri: str) -> None:
    """Create the file of an SQLite database under another name: one whose tables are made in part is of no use."""
    path = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or path.exists():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        new_client(f"{SQLITE}{temporary}").search_experiments()
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
