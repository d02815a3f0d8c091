"""The run directory before a task starts: the resolved spec, inputs, and the origin of code and command."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

import hpc_yolo
from hpc_yolo.cluster.process import ProcessInfo, current_environment
from hpc_yolo.core.errors import NameTakenError, RunError, SpecError
from hpc_yolo.core.files import create_exclusive, write_atomic
from hpc_yolo.data.dataset_source import is_here
from hpc_yolo.data.run_inputs import changed_inputs, gather_inputs, store_inputs
from hpc_yolo.resilience.chain import predecessor
from hpc_yolo.resilience.lease import last_holder
from hpc_yolo.resilience.requeue import slurm_job_id
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.index import add_to_index, state_directory
from hpc_yolo.runs.journal import require_format
from hpc_yolo.runs.sweep import sweep_of
from hpc_yolo.spec.fingerprint import learned_fields
from hpc_yolo.spec.load import Override, check_spec, dump_spec, load_resolved_spec
from hpc_yolo.spec.paths import has_variables
from hpc_yolo.spec.schema import Spec

MAX_CHANGES = 5  # in a message


def prepare_run(run: RunDirectory, spec: Spec, *, needs_data: bool = True, is_new: bool = False) -> None:
    """Create the run directory of `spec`, with its inputs and origin, and add a run to the index.

    Args:
        spec: one that `require_same_training` has accepted.
        needs_data: the dataset YAML must exist here; otherwise, unless it does, the first attempt copies it; and the
            other inputs too, if it is no path with variables.
        is_new: the run did not exist when the caller made its plan; of several such callers, one creates it.

    Raises:
        NameTakenError: another command has created the run meanwhile.
        RunError: it cannot be written.
        SpecError, DataError: a file that the spec names cannot be read.
    """
    has_data = needs_data or is_here(spec.data)
    is_of_nodes = any(map(has_variables, spec.data.paths))
    inputs = gather_inputs(run, spec, with_dataset=has_data) if has_data or is_of_nodes else {}
    run.create(for_group=spec.output_mode == "group")
    try:
        _write_spec(run, spec, is_new=is_new)
        write_atomic(run.origin, json.dumps(origin(), indent=2) + "\n")
        write_atomic(run.packages, "\n".join(installed_packages()) + "\n")
    except OSError as error:
        raise RunError(
            f"{run.path}: cannot be written: {error.strerror}", hint="choose another directory with --set output=DIR"
        ) from error
    store_inputs(run, inputs)
    if sweep_of(run) is None:  # a trial is listed with its sweep
        add_to_index(state_directory(current_environment()), run)


def take_back(run: RunDirectory) -> None:
    """Remove what `prepare_run` has written for a new run that is not queued: a corrected spec may have its name."""
    shutil.rmtree(run.inputs, ignore_errors=True)
    for path in (run.spec, run.origin, run.packages, run.script):
        path.unlink(missing_ok=True)


def _write_spec(run: RunDirectory, spec: Spec, *, is_new: bool) -> None:
    if not is_new:
        write_atomic(run.spec, dump_spec(spec))
    elif not create_exclusive(run.spec, dump_spec(spec).encode()):
        raise NameTakenError(
            f"{run.path}: another command has submitted a run of this name at the same time",
            hint="give this one another name with --set name=NAME; submit reads {n} in it as the next free number",
        )


def run_of(spec_path: Path, overrides: Sequence[Override]) -> RunDirectory | None:
    """Return the run of `spec_path`, even if files that the spec names do not exist; None where there is no run."""
    spec, _ = check_spec(spec_path, overrides, reads_files=False)
    run = RunDirectory(Path(spec.output).absolute() / spec.name)
    return run if spec.name and run.exists else None


def submitted_spec(run: RunDirectory, overrides: Sequence[Override] = ()) -> Spec:
    """Return the spec with which `run` was submitted, with `overrides` on top.

    Raises:
        RunError: an older version of this program has written the run.
        SpecError: the spec or an override is invalid.
    """
    require_format(run.journal)
    return load_resolved_spec(run.spec, overrides)


def spec_to_resume(run: RunDirectory, overrides: Sequence[Override]) -> Spec:
    """Return the spec with which `run` goes on in its directory, which may have been moved since.

    Raises:
        RunError: an older version of this program has written the run, or its directory was renamed.
        SpecError: the spec or an override is invalid, or an override names another directory.
    """
    spec, path = submitted_spec(run, overrides), run.path.absolute()
    if (Path(spec.output).absolute() / spec.name).resolve() == path.resolve():
        return spec
    if spec.name != path.name:
        path = path.resolve()  # a link to it may have any name
    is_other = {"name": spec.name != path.name, "output": Path(spec.output).resolve() != path.parent.resolve()}
    other = next((override for override in overrides if is_other.get(override.path)), None)
    if other is not None:
        raise SpecError(
            f"{other.origin}: a run that is resumed stays in its directory, {path}",
            hint="move that directory; or start a new run from the spec in it: "
            f"hpc-yolo submit {shlex.quote(str(run.spec))} --set name=NAME",
        )
    if spec.name != path.name:
        raise RunError(
            f"{path} is the directory of run {spec.name}, renamed or copied; a run keeps its name",
            hint=f"rename it, or a copy elsewhere, to {spec.name}",
        )
    return msgspec.structs.replace(spec, output=str(path.parent))


def is_continuation(run: RunDirectory, process: ProcessInfo) -> bool:
    """Return whether this job was requeued or follows another one, so that the run was not submitted again.

    The run then continues as it was submitted; changes to the spec and its files count at the next submission.
    """
    job_id = slurm_job_id(process)
    if job_id is None or not run.exists:
        return False
    holder = last_holder(run)
    was_begun = process.attempt > 1 and holder is not None and holder.job_id == job_id
    return was_begun or predecessor(run, job_id) is not None


def require_same_training(run: RunDirectory, spec: Spec) -> None:
    """Check that `spec` trains the same as an existing `run`, and overwrites no spec of another program.

    Raises:
        RunError: it does not; the message has the fields that differ, in the spec or in the files that it names.
        SpecError, DataError: a file that the spec names cannot be read.
    """
    if not run.exists:
        if os.path.lexists(run.spec):
            raise RunError(
                f"{run.path} has a spec.yaml but is not a run directory; that file would be overwritten",
                hint="give the run another name with --set name=NAME, or another directory with --set output=DIR",
            )
        return
    before, now = learned_fields(submitted_spec(run)), learned_fields(spec)
    changed = sorted(field for field in before.keys() | now.keys() if before.get(field) != now.get(field))
    if changed:
        differences = ", ".join(f"{field}: {before.get(field)} -> {now.get(field)}" for field in changed)
        raise RunError(
            f"{run.path} has a run with another spec ({differences})",
            hint="give the new run another name with --set name=NAME, or remove that directory",
        )
    if changes := changed_inputs(run, spec):
        more = f"; and {len(changes) - MAX_CHANGES} more" if len(changes) > MAX_CHANGES else ""
        raise RunError(
            f"{run.path} has a run with other inputs ({'; '.join(changes[:MAX_CHANGES])}{more})",
            hint=f"the run continues with the copies in {run.inputs}: restore the files, or give the new run another "
            "name with --set name=NAME",
        )


def origin() -> dict[str, str | None]:
    """Return the version of the code, the command, the interpreter, the host and the time."""
    return {
        "hpc_yolo": hpc_yolo.__version__,
        "git_commit": git_commit(Path(hpc_yolo.__file__).parent),
        "command": " ".join(sys.argv),
        "python": f"{platform.python_version()} ({sys.executable})",
        "host": platform.node(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def git_commit(directory: Path) -> str | None:
    """Return the commit checked out in `directory`, with "+changes" if files differ; None outside a repository."""
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
    """Return name==version of every distribution in this environment, sorted by name."""
    import importlib.metadata  # takes 20 to 80 ms, not needed by a dry run

    found = {f"{item.metadata['Name']}=={item.version}" for item in importlib.metadata.distributions()}
    return sorted(found, key=str.lower)
