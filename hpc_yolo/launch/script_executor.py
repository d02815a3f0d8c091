"""submitit's Slurm executor for the sbatch script of a plan. Importing this module imports submitit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import submitit

from hpc_yolo.runs.submissions import Submission


class ScriptExecutor(submitit.SlurmExecutor):
    """Queues the script of a plan; `submission` is then the record of it.

    Nothing is pickled: submitit names a pickle after the job id, and a job whose id sbatch could not report would wait
    for it forever. Tasks read the run directory.
    """

    def __init__(self, folder: Path, queue: Callable[[], Submission]) -> None:
        super().__init__(folder=folder)
        self._queue = queue
        self.submission: Submission | None = None

    def _internal_process_submissions(self, delayed_submissions: Sequence[Any]) -> list[Any]:
        (_,) = delayed_submissions
        self.submission = self._queue()
        tasks = list(range(self._num_tasks()))
        return [self.job_class(folder=self.folder, job_id=self.submission.job_id, tasks=tasks)]
