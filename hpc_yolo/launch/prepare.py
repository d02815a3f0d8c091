"""The run directory before any task starts: the resolved spec, and what a later reader wants to know of its origin."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import hpc_yolo
from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.core.errors import RunError
from hpc_yolo.core.files import write_atomic
from hpc_yolo.data.run_inputs import changed_inputs, gather_inputs, store_inputs
from hpc_yolo.resilience.chain import predecessor
from hpc_yolo.resilience.lease import last_holder
from hpc_yolo.resilience.requeue import slurm_job_id
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.index import add_to_index, state_directory
from hpc_yolo.runs.journal import require_format
from hpc_yolo.spec.fingerprint import learned_fields
from hpc_yolo.spec.load import Override, check_spec, dump_spec, load_resolved_spec
from hpc_yolo.spec.schema import Spec

MAX_CHANGES = 5  # in a message


def prepare_run(run: RunDirectory, spec: Spec, *, needs_data: bool = True) -> None:
    """Make the run directory of `spec` with what a later reader wants to know of its origin, and remember it.

    Args:
        spec: one that `require_same_training` has accepted.
        needs_data: the dataset YAML must be there; else, where it is not, the first attempt copies what it learns from.

    Raises:
        RunError: it cannot be written.
        SpecError, DataError: a file that the spec names cannot be read.
    """
    inputs = gather_inputs(run, spec) if needs_data or Path(spec.data).is_file() else {}
    run.create(for_group=spec.output_mode == "group")
    try:
        write_atomic(run.spec, dump_spec(spec))
        write_atomic(run.origin, json.dumps(origin(), indent=2) + "\n")
        write_atomic(run.packages, "\n".join(installed_packages()) + "\n")
    except OSError as error:
        raise RunError(
            f"{run.path}: cannot be written: {error.strerror}", hint="give another place with --set output=DIR"
        ) from error
    store_inputs(run, inputs)
    add_to_index(state_directory(current_environment()), run)


def run_of(spec_path: Path, overrides: Sequence[Override]) -> RunDirectory | None:
    """Return the run of `spec_path`, whatever has become of the files that it names; None where there is none yet."""
    spec, _ = check_spec(spec_path, overrides, reads_files=False)
    run = RunDirectory(Path(spec.output).absolute() / spec.name)
    return run if spec.name and run.exists else None


def goes_on_by_itself(run: RunDirectory, process: ProcessInfo) -> bool:
    """Return whether this job was queued again or follows another one: nobody has submitted the run anew.

    It then goes on as it was submitted; specs and files that were edited since count when somebody submits it again.
    """
    job_id = slurm_job_id(process)
    if job_id is None or not run.exists:
        return False
    holder = last_holder(run)
    was_begun = process.attempt > 1 and holder is not None and holder.job_id == job_id
    return was_begun or predecessor(run, job_id) is not None


def require_same_training(run: RunDirectory, spec: Spec) -> None:
    """Refuse a spec that would go on with a run that learns something else, or write over a spec that is no run's.

    Raises:
        RunError: naming the fields that differ, in the spec or in the files that it names.
        SpecError, DataError: a file that the spec names cannot be read.
    """
    if not run.exists:
        if os.path.lexists(run.spec):
            raise RunError(
                f"{run.path} holds a spec.yaml and is no run directory; that file would be written over",
                hint="give the run another name with --set name=NAME, or another place with --set output=DIR",
            )
        return
    require_format(run.journal)
    before, now = learned_fields(load_resolved_spec(run.spec)), learned_fields(spec)
    changed = sorted(field for field in before.keys() | now.keys() if before.get(field) != now.get(field))
    if changed:
        differences = ", ".join(f"{field}: {before.get(field)} -> {now.get(field)}" for field in changed)
        raise RunError(
            f"{run.path} holds a run with another spec ({differences})",
            hint="give the new run another name with --set name=NAME, or remove that directory",
        )
    if changes := changed_inputs(run, spec):
        more = f"; and {len(changes) - MAX_CHANGES} more" if len(changes) > MAX_CHANGES else ""
        raise RunError(
            f"{run.path} holds a run that learns from something else ({'; '.join(changes[:MAX_CHANGES])}{more})",
            hint=f"it goes on with what {run.inputs} has kept: make the files say that again, or give the new run "
            "another name with --set name=NAME",
        )


def origin() -> dict[str, str | None]:
    """Where this code comes from and what was typed."""
    return {
        "hpc_yolo": hpc_yolo.__version__,
        "git_commit": git_commit(Path(hpc_yolo.__file__).parent),
        "command": " ".join(sys.argv),
        "python": f"{platform.python_version()} ({sys.executable})",
        "host": platform.node(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def git_commit(directory: Path) -> str | None:
    """The commit checked out in `directory`, with "+changes" where files differ from it; None outside a repository."""
    if shutil.which("git") is None:
        return None
    described = subprocess.run(
        ["git", "-C", str(directory), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or None


def installed_packages() -> list[str]:
    """name==version of every distribution in this environment, by name."""
    import importlib.metadata  # 12 ms that a dry run need not wait for

    found = {f"{item.metadata['Name']}=={item.version}" for item in importlib.metadata.distributions()}
    return sorted(found, key=str.lower)
