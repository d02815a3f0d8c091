"""Where the files that travel with the package are: configs/ and slurm/."""

from __future__ import annotations

from pathlib import Path

import hpc_yolo


def resource_folder(name: str) -> Path:
    """The folder `name`: inside the installed package, or at the top of the repository that it is run from."""
    package = Path(hpc_yolo.__file__).parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name
