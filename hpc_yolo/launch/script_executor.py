"""submitit's Slurm executor for a script of our own. Importing this module imports submitit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import submitit

from hpc_yolo.runs.submissions import Submission


class ScriptExecutor(submitit.SlurmExecutor):
    """Queue a script of our own; `submission` is its record then.

    Nothing is pickled: submitit names a pickle after the job's id, and a job whose id sbatch could not report any more
    would wait for it in vain. Tasks read the run directory.
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
