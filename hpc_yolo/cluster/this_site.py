"""Names of this host and of its Slurm cluster, and the directories with site profiles."""

from __future__ import annotations

import functools
import platform
import re
from collections.abc import Mapping
from pathlib import Path

from hpc_yolo.cluster import scheduler
from hpc_yolo.cluster.process import current_environment
from hpc_yolo.cluster.slurm_command import Run, run_command
from hpc_yolo.core.errors import ClusterError
from hpc_yolo.core.package_data import resource_directory
from hpc_yolo.spec.site_files import SiteLookup

QUERY_TIMEOUT_S = 2.0
CONFIGURATIONS = ("/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf", "/etc/slurm-llnl/slurm.conf")
_CLUSTER_NAME = re.compile(r"^\s*ClusterName\s*=\s*(?P<name>[^\s#]+)", re.IGNORECASE | re.MULTILINE)


def site_lookup(
    environ: Mapping[str, str] | None = None, *, for_slurm: bool | None = None, run: Run = run_command
) -> SiteLookup:
    """Return what decides about the site profile of a spec.

    Args:
        environ: variables of this process by default.
        for_slurm: a spec with `executor: auto` becomes a Slurm job; by default where Slurm is installed.
        run: runs Slurm's commands.
    """
    environ = current_environment() if environ is None else environ
    is_installed = scheduler.is_installed()
    return SiteLookup(
        directories=profile_directories(environ),
        wanted=environ.get("HPC_YOLO_SITE") or None,
        hosts=(platform.node(),) if platform.node() else (),
        cluster_name=functools.cache(lambda: cluster_name(environ, run if is_installed else None)),
        has_slurm=is_installed if for_slurm is None else for_slurm,
    )


def profile_directories(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the directories with profiles: those of the package, of HPC_YOLO_SITES (with :), and of this user."""
    shared = [Path(written).expanduser() for written in environ.get("HPC_YOLO_SITES", "").split(":") if written]
    return (resource_directory("configs") / "sites", *shared, user_directory(environ))


def user_directory(environ: Mapping[str, str]) -> Path:
    """Return the directory of this user's own profiles."""
    home = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".config")
    return Path(home) / "hpc-yolo" / "sites"


def own_cluster() -> str | None:
    """Return the name of the Slurm cluster of this machine in small letters, as Slurm's commands print it, or None."""
    name = cluster_name(current_environment(), run_command)
    return None if name is None else name.lower()


def cluster_name(environ: Mapping[str, str], run: Run | None) -> str | None:
    """Return the name of the Slurm cluster of this machine; None where it is unknown.

    Args:
        environ: may hold SLURM_CLUSTER_NAME, as in a job, and SLURM_CONF.
        run: runs scontrol where no configuration is readable; None where Slurm is not installed.
    """
    if name := environ.get("SLURM_CLUSTER_NAME"):
        return name
    for path in [environ["SLURM_CONF"]] if environ.get("SLURM_CONF") else CONFIGURATIONS:
        try:
            text = Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if found := _CLUSTER_NAME.search(text):
            return found["name"]
    if run is None:
        return None
    try:
        found = _CLUSTER_NAME.search(scheduler.show("config", QUERY_TIMEOUT_S, run=run))
    except ClusterError:
        return None
    return found["name"] if found else None
