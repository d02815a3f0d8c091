"""Every path in a run directory by name. Each file has one writer, named beside it.

<output>/<name>/              0700; with output_mode: group 2750 where the umask allows that, and so is all below
|-- spec.yaml                 submit: the resolved spec, which every attempt reads
|-- inputs/                   submit: copies of what the run learns from: hyperparameters, model, dataset YAML;
|                             rank 0: images-<split>.npz, which images each attempt has
|-- origin.json               submit: code version, command line, Python, when
|-- packages.txt              submit: the environment's packages with their versions
|-- submissions.jsonl         submit: one line a submission (executor, job id, nodes x tasks)
|-- job.sbatch                submit: the script that went to Slurm
|-- jobs/                     submit: what submitit pickles for tasks on this machine, records of jobs that sbatch has
|                             not confirmed yet; Slurm: the tasks' output; a job's script: its setup line
|-- rendezvous/               rank 0: address and port of an attempt while it gathers
|-- journal.jsonl             rank 0: the events of the run
|-- leases/                   rank 0: which attempt may write, one file an attempt
|-- failures/                 a failing rank: its traceback, one file
|-- batch                      rank 0: the number of images that train.batch: -1 found
|-- results/                  rank 0, after the last step: curves, confusion matrix, label statistics, images
|-- stages/                   what ran after the training: records, one file a try, written by the process that runs
|                             it; submit: scripts of jobs; the stages' output
|-- notices/                  notify: the process that sends a message: the record of it
|-- evaluations/              validate: aside; the job that evaluates: results.jsonl, from which rank 0 takes them;
|                             the process that queues it: script and id; Slurm: its output
|-- tensorboard/              rank 0: event files, where the spec requests them
|-- tracking/                 hpc-yolo track: files of trackers, and a lock for each
|-- report.html               hpc-yolo report
|-- labels-<split>.npz        rank 0: labels of a dataset whose directory is not writable; beside it a .lock
`-- checkpoints/              rank 0: state-<attempt>-<step>.safetensors, best.safetensors; last.safetensors is a link;
                              models that wait for an evaluation aside
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

from hpc_yolo.core.errors import RunError
from hpc_yolo.core.files import file_mode, make_directory

ORIGIN_KEY = b'"hpc_yolo"'  # in origin.json


@dataclass(frozen=True)
class RunDirectory:
    """The paths of one run. Making the object touches nothing on disk."""

    path: Path

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.path.name

    @property
    def word(self) -> str:
        """The path as one word of a shell, for commands in messages."""
        return shlex.quote(str(self.path))

    @property
    def spec(self) -> Path:
        """The resolved spec, which every attempt reads."""
        return self.path / "spec.yaml"

    @property
    def inputs(self) -> Path:
        """Copies of what the run learns from."""
        return self.path / "inputs"

    def kept_images(self, split: str) -> Path:
        """Return the file of the images of a split, with their labels, that each attempt has."""
        return self.inputs / f"images-{split}.npz"

    @property
    def origin(self) -> Path:
        """Version, command line and host of the submission."""
        return self.path / "origin.json"

    @property
    def packages(self) -> Path:
        """The packages of the environment with their versions."""
        return self.path / "packages.txt"

    @property
    def submissions(self) -> Path:
        """The submissions, one line each."""
        return self.path / "submissions.jsonl"

    @property
    def script(self) -> Path:
        """The script that went to Slurm."""
        return self.path / "job.sbatch"

    @property
    def submission_lock(self) -> Path:
        """The lock of the command that queues a job of the run."""
        return self.path / ".submit.lock"

    @property
    def jobs(self) -> Path:
        """The output of jobs."""
        return self.path / "jobs"

    @property
    def setup_record(self) -> str:
        """Shell text for the file in which a job's script keeps the number of the setup line that runs."""
        return f"{shlex.quote(str(self.jobs))}/$SLURM_JOB_ID.setup"

    @property
    def journal(self) -> Path:
        """The events of the run."""
        return self.path / "journal.jsonl"

    @property
    def leases(self) -> Path:
        """The leases, one file an attempt."""
        return self.path / "leases"

    @property
    def failures(self) -> Path:
        """Tracebacks of ranks that failed."""
        return self.path / "failures"

    @property
    def stacks(self) -> Path:
        """Stacks of ranks that stalled."""
        return self.path / "stacks"

    def stacks_of(self, attempt: int, rank: int) -> Path:
        """Return the file for the stacks of a rank that stalled."""
        return self.stacks / f"attempt{attempt}-rank{rank}.txt"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The link to the newest checkpoint."""
        return self.checkpoints / "last.safetensors"

    @property
    def best(self) -> Path:
        """The best model."""
        return self.checkpoints / "best.safetensors"

    @property
    def found_batch(self) -> Path:
        """The number of images that train.batch: -1 found."""
        return self.path / "batch"

    @property
    def results(self) -> Path:
        """Charts, metrics and images of the finished run."""
        return self.path / "results"

    @property
    def evaluation(self) -> Path:
        """The final metrics."""
        return self.results / "evaluation.json"

    @property
    def labels(self) -> Path:
        """The statistics of the labels."""
        return self.results / "labels.json"

    @property
    def mosaics(self) -> Path:
        """Training images with their labels."""
        return self.results / "train_mosaics.jpg"

    @property
    def pairs(self) -> Path:
        """Validation images with labels and detections."""
        return self.results / "val_images.jpg"

    @property
    def stages(self) -> Path:
        """Records, scripts and output of the stages after the training."""
        return self.path / "stages"

    def stage_script(self, stage: str) -> Path:
        """Return the file for the script of a stage that is a job of its own."""
        return self.stages / f"{stage}.sbatch"

    def stage_log(self, stage: str, job_id: str) -> Path:
        """Return the file for the output of a stage in a job; `%j` is the job id in a script."""
        return self.stages / f"{stage}-{job_id}.log"

    @property
    def notices(self) -> Path:
        """Records of the messages to people."""
        return self.path / "notices"

    @property
    def tracking(self) -> Path:
        """The files of trackers."""
        return self.path / "tracking"

    @property
    def tensorboard(self) -> Path:
        """The event files of TensorBoard."""
        return self.path / "tensorboard"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    @property
    def evaluations(self) -> Path:
        """Results, scripts and output of jobs that evaluate beside the training."""
        return self.path / "evaluations"

    @property
    def evaluation_results(self) -> Path:
        """The results of evaluations by a job of its own."""
        return self.evaluations / "results.jsonl"

    @property
    def evaluation_script(self) -> Path:
        """The script of the job that evaluates."""
        return self.evaluations / "job.sbatch"

    @property
    def evaluation_job(self) -> Path:
        """The record of the last job that was queued to evaluate."""
        return self.evaluations / "job.json"

    def evaluation_queue(self, job_id: str) -> Path:
        """Return the file that exists while a process of job `job_id` queues jobs that evaluate."""
        return self.evaluations / f"{job_id}.queue"

    def waiting_model(self, epoch: int | str) -> Path:
        """Return the file of the model of `epoch`, from 0, that waits for its evaluation."""
        return self.checkpoints / f"waiting-{epoch}.safetensors"

    def label_cache(self, split: str) -> Path:
        """Return the file for the labels of a split whose dataset directory is not writable."""
        return self.path / f"labels-{split}.npz"

    @property
    def _rendezvous(self) -> Path:
        return self.path / "rendezvous"

    def rendezvous(self, job_id: str, attempt: int) -> Path:
        """Return the file in which rank 0 of one attempt publishes the address and port that it listens on."""
        return self._rendezvous / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', job_id)}-{attempt}.json"

    @property
    def exists(self) -> bool:
        """True for a run directory that this user may read.

        Other directories hold a spec.yaml too: users keep specs beside data and weights. Only a run directory has
        leases, or an origin.json that names this package.
        """
        try:
            return self.spec.is_file() and (self.leases.is_dir() or ORIGIN_KEY in self.origin.read_bytes())
        except OSError:
            return False

    def holds_checkpoint(self, path: Path) -> bool:
        """Return True if `path` is a file in the checkpoints of this run."""
        return path.absolute().parent == self.checkpoints.absolute() and self.exists

    def create(self, *, for_group: bool = False) -> None:
        """Create the directories; where they exist, set the mode of them and of all files.

        Args:
            for_group: readable for the group of the directory as far as the umask allows, else for the owner alone.

        Raises:
            RunError: a directory cannot be created or written.
        """
        self.require_own()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700, exist_ok=True)
            self.path.chmod(stat.S_ISGID | 0o750 & ~current_umask() if for_group else 0o700)
            for directory in (self.jobs, self.leases, self.failures, self.checkpoints):
                make_directory(directory)
            self._rendezvous.mkdir(mode=0o700, exist_ok=True)  # holds a secret of the ranks
            self.settle_modes()
        except OSError as error:
            raise RunError(
                f"{self.path}: the run directory cannot be created: {error.strerror}",
                hint="choose another directory with --set output=DIR, on a file system that all nodes see",
            ) from error

    def settle_modes(self) -> None:
        """Set the mode of everything in the directory to that of the directory: Slurm and libraries use the umask.

        Raises:
            OSError: a mode cannot be set.
        """
        directory_mode = stat.S_IMODE(self.path.stat().st_mode)
        own_file_mode = file_mode(self.path)
        for path in self.path.rglob("*"):
            if path.is_symlink() or self._rendezvous in (path, path.parent):
                continue
            with contextlib.suppress(FileNotFoundError):  # a rank may remove what it no longer needs
                path.chmod(directory_mode if path.is_dir() else own_file_mode)

    def require_own(self) -> None:
        """Return if this user may change the run; the superuser may change any.

        Raises:
            RunError: it belongs to another user.
        """
        try:
            owner = self.path.stat().st_uid
        except OSError:
            return
        if os.geteuid() not in (owner, 0):
            raise RunError(
                f"{self.path} belongs to {owner_name(self.path)}, who alone may change it",
                hint="choose another name with --set name=NAME, or another directory with --set output=DIR",
            )


def current_umask() -> int:
    """Return the umask of this process, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def find_runs(root: Path) -> list[RunDirectory]:
    """Return the readable runs directly under `root`, by name; none where there is no such directory.

    Raises:
        RunError: the directory cannot be read.
    """
    try:
        return [RunDirectory(path) for path in sorted(root.iterdir()) if RunDirectory(path).exists]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RunError(
            f"{root}: cannot be read: {error.strerror}", hint="name another directory with --root"
        ) from error


def unreadable_directories(root: Path) -> list[Path]:
    """Return the directories directly under `root` that this user may not read: runs are private by default."""
    if is_unreadable(root):
        return [root]
    try:
        return [path for path in sorted(root.iterdir()) if is_unreadable(path)]
    except OSError:
        return []


def is_unreadable(path: Path) -> bool:
    """Return True if `path` is a directory that this user may not read."""
    try:
        return path.is_dir() and not os.access(path, os.R_OK | os.X_OK)
    except OSError:
        return True


def owner_name(path: Path) -> str:
    """Return the name of the owner of `path`, or the number where there is no name."""
    try:
        return path.owner()
    except KeyError:
        return f"user {path.stat().st_uid}"


def mode_warnings(output_mode: str) -> list[str]:
    """Return a warning where the umask removes permissions that `output_mode` gives."""
    mask = current_umask()
    if output_mode == "private" or not mask & 0o050:
        return []
    return [f"output_mode: group, but the umask {mask:04o} denies the group access to the run directory; use umask 027"]


def require_writable(output: Path) -> None:
    """Check that `output` can be created in the nearest existing directory above it.

    Raises:
        RunError: that directory is not writable.
    """
    directory = output
    while not directory.exists():
        directory = directory.parent
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        reason = "is not writable" if directory.is_dir() else "is a file"
        raise RunError(
            f"output: {output} cannot be created ({directory} {reason})",
            hint="choose another directory with --set output=DIR, on a file system shared by all nodes",
        )
