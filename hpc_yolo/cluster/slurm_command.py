"""Run one of Slurm's commands: with a time limit, in the C locale, without the variables of a surrounding job.

sbatch alone keeps the locale of the user: a job gets the environment of its sbatch.

The command lines are in `scheduler`. Tests replace `run_command`, the only call that starts a process.
"""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hpc_yolo.cluster.process import clean_environment, current_environment
from hpc_yolo.cluster.sbatch_variables import PREFIX as SBATCH_PREFIX
from hpc_yolo.cluster.slurm_output import error_text
from hpc_yolo.core.errors import ClusterError, SchedulerUnavailable

# Variables that change what the query commands select and print.
_QUERY_PREFIXES = ("SQUEUE_", "SACCT_", "SINFO_", "SCONTROL_")
_NO_ANSWER = re.compile(
    r"Unable to contact slurm controller|Connection (refused|timed out)|Socket timed out|Zero Bytes were transmitted"
    r"|Could not establish a configuration source|Unexpected message received|Communication connection failure"
    r"|Message (send|receive) failure|Protocol authentication error"
)


@dataclass(frozen=True)
class Finished:
    """Exit status and output of a command."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[[Sequence[str], float], Finished]  # (command line, time limit in seconds)


def run_command(
    arguments: Sequence[str], timeout_s: float, *, sbatch_variables: Mapping[str, str] | None = None
) -> Finished:
    """Run one of Slurm's commands as it would run in a new login session.

    Args:
        arguments: the command line.
        timeout_s: after which the command is killed.
        sbatch_variables: replaces the SBATCH_ variables of the environment, where given.

    Raises:
        SchedulerUnavailable: the command is not installed, or did not end within `timeout_s`.
    """
    environ = clean_environment(current_environment())
    prefixes = _QUERY_PREFIXES if sbatch_variables is None else (*_QUERY_PREFIXES, SBATCH_PREFIX)
    kept = {name: value for name, value in environ.items() if not name.startswith(prefixes)}
    try:
        done = subprocess.run(
            arguments,
            env={**kept, **(sbatch_variables or {}), **({} if arguments[0] == "sbatch" else {"LC_ALL": "C"})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",  # of scripts and names, whatever the locale has
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise SchedulerUnavailable(f"Slurm's {arguments[0]} is not installed here") from None
    except OSError as error:
        raise SchedulerUnavailable(f"Slurm's {arguments[0]} cannot be run here: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise SchedulerUnavailable(f"{arguments[0]} gave no answer within {timeout_s:g} s") from None
    return Finished(done.returncode, done.stdout, done.stderr)


def with_sbatch_variables(variables: Mapping[str, str]) -> Run:
    """Return `run_command` with these SBATCH_ variables and no others."""
    return functools.partial(run_command, sbatch_variables=dict(variables))


def on_cluster(cluster: str | None, run: Run = run_command) -> Run:
    """Return `run` for commands that address another cluster of the site; None is the cluster of this machine."""
    if cluster is None:
        return run
    return lambda arguments, timeout_s: run([arguments[0], f"--clusters={cluster}", *arguments[1:]], timeout_s)


def output_of(arguments: Sequence[str], timeout_s: float, run: Run) -> str:
    """Run a command and return what it prints.

    Raises:
        ClusterError: exit status other than 0.
        SchedulerUnavailable: the controller did not answer.
    """
    done = run(arguments, timeout_s)
    if done.returncode != 0:
        raise command_error(arguments[0], done)
    return done.stdout


def command_error(command: str, done: Finished) -> ClusterError:
    """Return the error of a `command` that failed, with Slurm's message."""
    message = error_text(done.stderr or done.stdout) or f"exit status {done.returncode} without a message"
    if _NO_ANSWER.search(message):
        return SchedulerUnavailable(
            f"{command}: {message}", hint="try again when the controller is back; see scontrol ping"
        )
    return ClusterError(f"{command}: {message}")
