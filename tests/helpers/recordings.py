"""Read text that Slurm printed, one directory per version; `record_slurm.py` writes it."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).parents[1] / "cluster" / "recorded"
VERSIONS = sorted(path.name for path in DIRECTORY.iterdir() if path.name[0].isdigit())
NEWEST = VERSIONS[-1]


def recorded(version: str, name: str) -> str:
    """Return a recorded text."""
    return (DIRECTORY / version / name).read_text()


def recorded_environment(version: str, name: str) -> dict[str, str]:
    """Return the variables of a recorded process; `version` may be "" for launchers other than Slurm."""
    return dict(line.split("=", 1) for line in recorded(version, f"{name}.env").splitlines())


def versions_with(name: str) -> list[str]:
    """Return the versions of which there is a recording `name`."""
    return [version for version in VERSIONS if (DIRECTORY / version / name).exists()]
