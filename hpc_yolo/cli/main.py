"""`hpc-yolo`: the group of commands, and the exit code and message of each error."""

from __future__ import annotations

import io
import sys
from typing import NoReturn

import click

import hpc_yolo
from hpc_yolo.cli.commands import LazyGroup
from hpc_yolo.core.errors import FULL, HpcYoloError, RunError
from hpc_yolo.core.installation import explain_import
from hpc_yolo.core.text import harmless

INTERRUPTED = 130


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with: hpc-yolo data synth datasets/shapes && hpc-yolo submit configs/quickstart.yaml",
)
@click.version_option(hpc_yolo.__version__, prog_name="hpc-yolo")
def cli() -> None:
    """Train a YOLOv5-family detector from one YAML spec, as Slurm jobs or in processes on this machine.

    The run directory is <output>/<name>. Submitting the same spec again resumes the run where it stopped.
    """


def main() -> None:
    """Run the command line; errors of the user end in one message and an exit code, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # a letter that the locale lacks must not end a command
    try:
        cli(standalone_mode=False)
    except HpcYoloError as error:
        _leave_with(error)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as interrupt:
        cause = interrupt.__context__ or interrupt  # click raises an Abort from Ctrl-C, 8.1 `from None`
        click.echo(": ".join(["interrupted", *map(str, cause.args)]), err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of standard output has exited (`| head`).
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        explained = explain_import(error) or _explain_file(error)
        if explained is None:
            raise
        _leave_with(explained)


def _explain_file(error: Exception) -> HpcYoloError | None:
    """Return the error for a file that the system refuses to read or write; None for another exception."""
    if not isinstance(error, OSError):
        return None
    if error.errno in FULL:
        # The errors of standard output name no file.
        return RunError(f"{error.filename or 'the output'} cannot be written: {error.strerror}")
    return None if error.filename is None else HpcYoloError(f"{error.filename}: {error.strerror}")


def _leave_with(error: HpcYoloError) -> NoReturn:
    click.echo(click.style("error: ", fg="red", bold=True) + harmless(str(error)), err=True)
    sys.exit(error.exit_code)
