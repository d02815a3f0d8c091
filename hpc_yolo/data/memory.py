"""Available memory of this process: of its machine, and within the limits of its control groups."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")

# Of a control group, by version: its limit, its usage, and the usage that only caches files and can be reclaimed.
CGROUP_FILES = {
    "v1": ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")),
    "v2": ("memory.max", "memory.current", ("active_file", "inactive_file")),
}


def available_bytes() -> int:
    """Return the bytes that this process can allocate without swapping or exceeding the limit of its job."""
    return min([_machine_bytes(), *_cgroup_bytes()])


def _machine_bytes() -> int:
    lines = dict(line.split(":", 1) for line in (PROC / "meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def _cgroup_bytes() -> list[int]:
    """Return the free bytes of each control group of this process, up to the root, that has a limit."""
    found = []
    for line in (PROC / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            version, root = "v2", CGROUPS
        elif "memory" in controllers.split(","):
            version, root = "v1", CGROUPS / "memory"
        else:
            continue
        group = Path(path.lstrip("/"))
        for directory in (root / group, *(root / parent for parent in group.parents)):
            free_bytes = _free_bytes(directory, *CGROUP_FILES[version])
            if free_bytes is not None:
                found.append(free_bytes)
    return found


def _free_bytes(directory: Path, limit: str, usage: str, caches: tuple[str, ...]) -> int | None:
    try:
        limit_bytes, used_bytes = (int((directory / name).read_text()) for name in (limit, usage))
        stat = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # a group that is not visible here, or the limit "max"
        return None
    return max(limit_bytes - used_bytes + sum(int(stat.get(name, 0)) for name in caches), 0)
