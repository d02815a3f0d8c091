"""`hpc-yolo data staged`: list the copies of datasets on this machine, and remove those that no process uses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from hpc_yolo.cluster.process import current_environment
from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.core.units import short_bytes, short_time
from hpc_yolo.spec.data import AUTO

if TYPE_CHECKING:
    from hpc_yolo.data.staging.directory import StagedCopy

COPY, CACHE = "copy", "cache"  # kinds: of files of a dataset, of decoded images


@click.command(short_help="List or remove copies of datasets on this machine.")
@click.argument("directories", metavar="[DIR]...", nargs=-1)
@click.option("--remove", is_flag=True, help="Remove the copies that no process uses.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each copy, one a line.")
def staged(directories: tuple[str, ...], remove: bool, as_json: bool) -> None:
    """List the copies that runs with data.stage have made on this machine, in each stage directory DIR.

    The caches of decoded images of runs with train.cache disk are listed with them.

    Without DIR those of $SLURM_TMPDIR, $LOCAL_SCRATCH, $TMPDIR and /dev/shm. A copy that no process uses is removed by
    the next run that needs its room, or after three days.
    """
    from hpc_yolo.data.staging.directory import held_alone

    num_copies = 0
    for copy in copies_in(directories or (AUTO,)):
        num_copies += 1
        facts = facts_of(copy)
        if remove:
            with held_alone(copy) as is_mine:
                if is_mine:
                    copy.remove()
                    facts["state"] = "removed"
        click.echo(json.dumps(facts) if as_json else line_of(facts))
    if not num_copies and not as_json:
        click.echo("no copies of datasets here")


def copies_in(stages: tuple[str, ...]) -> Iterator[StagedCopy]:
    """Yield this user's copies in the directories of `stages`, as `data.stage` names them."""
    from hpc_yolo.data.staging.directory import private_path, staged_copies
    from hpc_yolo.data.staging.where import stage_directories

    for stage in stages:
        try:
            directories = stage_directories(stage, current_environment())
        except HpcYoloError as error:
            raise click.UsageError(error.message) from error
        for directory in directories:
            yield from staged_copies(private_path(directory))


def facts_of(copy: StagedCopy) -> dict[str, Any]:
    """Return the facts of one copy, or of a cache of decoded images, as JSON values."""
    from hpc_yolo.data.staging.directory import is_used

    record, cache_bytes = copy.record, copy.cache_bytes
    is_cache = cache_bytes is not None
    num_bytes = copy.read_progress() if record is None else record.total_bytes
    state = "unused" if is_cache or record is not None else "unfinished"
    return {
        "path": str(copy.path),
        "kind": CACHE if is_cache else COPY,
        "source": None if record is None else record.source,
        "files": None if record is None else record.num_files,
        "bytes": cache_bytes if is_cache else num_bytes,
        "state": "used" if is_used(copy) else state,
        "unused_s": round(copy.unused_s),
    }


def line_of(facts: dict[str, Any]) -> str:
    """Return the facts of one copy as a line."""
    since = "" if facts["state"] in ("used", "removed") else f" for {short_time(facts['unused_s'])}"
    source = f", of {facts['source']}" if facts["source"] else ""
    what = " of decoded images" if facts["kind"] == CACHE else ""
    return f"{facts['path']}  {short_bytes(facts['bytes'])}{what}, {facts['state']}{since}{source}"
