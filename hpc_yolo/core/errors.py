"""The errors for users, and their exit codes for scripts.

    HpcYoloError                 1
    |-- SpecError                2   the spec, a command-line override or an option is wrong
    |-- DataError                3   dataset, labels, images; also some of the sources of predict
    |-- ClusterError             4   Slurm refuses, or a node list or environment is invalid
    |   `-- SchedulerUnavailable 5   Slurm does not answer (a script may try again later)
    |-- InstallationError       13   a package cannot be imported: it or a library that it needs is missing
    |-- TrackerError            14   a tracker refuses values, or does not answer
    |-- RunError                 6   the run directory or its journal cannot be used
    |   |-- NameTakenError      15   another command submits the same run or sweep
    |   |-- CheckpointError      7   a checkpoint is damaged or does not fit
    |   `-- LeaseError           9   another attempt of the run trains it, or has taken over
    `-- TrainingError            8   a rank failed; its rank, host and traceback are in the message
        |-- CancelledError      12   a person has cancelled the run before this job's turn
        |-- LostProcessError    11   a process that the rank needs has died, or cannot be reached
        `-- StallError          10   a rank makes no progress, or is gone; the watchdog has ended the attempt

Ctrl-C ends with 130, as shells expect. These exceptions are for errors of users and clusters: the command line prints
message and hint without a traceback. A bug is a plain exception with its traceback.
"""

from __future__ import annotations

import errno

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})  # a write failed because the disk is full, or the quota used up


class HpcYoloError(Exception):
    """The problem, the value and the allowed values (`message`), and the next command or setting (`hint`)."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  hint: {self.hint}"

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments need help to cross a process boundary (loader workers, tasks).
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[HpcYoloError], message: str, hint: str | None) -> HpcYoloError:
    error = kind.__new__(kind)
    HpcYoloError.__init__(error, message, hint=hint)
    return error


class SpecError(HpcYoloError):
    """The spec, an override on the command line or a hyperparameter file is wrong. Holds all problems at once."""

    exit_code = 2


class DataError(HpcYoloError):
    """A dataset cannot be used: missing, empty, or labels that contradict it."""

    exit_code = 3


class ClusterError(HpcYoloError):
    """Slurm refused a request, or the variables of a task are inconsistent."""

    exit_code = 4


class SchedulerUnavailable(ClusterError):
    """No answer from Slurm within the time allowed; nothing was changed."""

    exit_code = 5


class InstallationError(HpcYoloError):
    """A Python package cannot be imported on this machine."""

    exit_code = 13


class TrackerError(HpcYoloError):
    """A tracker of experiments refuses the values of a run, or does not answer."""

    exit_code = 14


class RunError(HpcYoloError):
    """A run directory cannot be created, read or written, or belongs to another spec."""

    exit_code = 6


class NameTakenError(RunError):
    """Another command submits the same run or sweep, or has just done so. This one has changed nothing."""

    exit_code = 15


class CheckpointError(RunError):
    """A checkpoint is torn, altered, or made for another model."""

    exit_code = 7


class LeaseError(RunError):
    """Another attempt holds the run. This one exits, and publishes nothing more."""

    exit_code = 9


class TrainingError(HpcYoloError):
    """Training ended on some rank. The message names rank, host and cause."""

    exit_code = 8


class CancelledError(TrainingError):
    """The job that this one follows was cancelled; that applies to both."""

    exit_code = 12


class LostProcessError(TrainingError):
    """A process that a rank needs has died or cannot be reached: it counts as killed, not as an error."""

    exit_code = 11


class StallError(TrainingError):
    """A rank makes no progress or is gone. The message names it and its last position."""

    exit_code = 10
