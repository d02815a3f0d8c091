"""The run directory before any task starts: the resolved spec, and what a later reader wants to know of its origin."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import hpc_yolo
from hpc_yolo.cluster.process import current_environment
from hpc_yolo.errors import RunError
from hpc_yolo.fileio import write_atomic
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.runs.index import add_to_index, state_folder
from hpc_yolo.spec.identity import learned_fields
from hpc_yolo.spec.load import dump_spec, load_spec
from hpc_yolo.spec.schema import Spec


def prepare_run(run: RunDirectory, spec: Spec) -> None:
    """Make the run directory of `spec` with what a later reader wants to know of its origin, and remember it.

    Raises:
        RunError: it cannot be written, or belongs to a run that learns something else.
    """
    require_same_training(run, spec)
    run.create(for_group=spec.output_mode == "group")
    try:
        write_atomic(run.spec, dump_spec(spec))
        write_atomic(run.origin, json.dumps(origin(), indent=2) + "\n")
        write_atomic(run.packages, "\n".join(installed_packages()) + "\n")
    except OSError as error:
        raise RunError(
            f"{run.path}: cannot be written: {error.strerror}", hint="give another place with --set output=DIR"
        ) from error
    add_to_index(state_folder(current_environment()), run)


def require_same_training(run: RunDirectory, spec: Spec) -> None:
    """Refuse a spec that would go on with a run that learns something else, or write over a spec that is no run's.

    Raises:
        RunError: naming the fields that differ.
    """
    if not run.exists:
        if os.path.lexists(run.spec):
            raise RunError(
                f"{run.path} holds a spec.yaml and is no run directory; that file would be written over",
                hint="give the run another name with --set name=NAME, or another place with --set output=DIR",
            )
        return
    before, now = learned_fields(load_spec(run.spec)), learned_fields(spec)
    changed = sorted(field for field in before.keys() | now.keys() if before.get(field) != now.get(field))
    if changed:
        differences = ", ".join(f"{field}: {before.get(field)} -> {now.get(field)}" for field in changed)
        raise RunError(
            f"{run.path} holds a run with another spec ({differences})",
            hint="give the new run another name with --set name=NAME, or remove that directory",
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


def git_commit(folder: Path) -> str | None:
    """The commit checked out in `folder`, with "+changes" where files differ from it; None outside a repository."""
    if shutil.which("git") is None:
        return None
    described = subprocess.run(
        ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"],
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
