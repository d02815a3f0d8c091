"""An image for real containers: a root directory with a shell and `env`, and without the commands of Slurm.

Libraries, the Python of the tests and its packages are not copied but mounted, by `mounts` of the spec.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from slurm_root import mounted_paths

PROGRAMS = ("sh", "env")
LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/local/lib")


def make_image(image: Path) -> Path:
    """Make the directory `image` and return it."""
    for name in ("usr/bin", "usr/lib", "usr/lib64", "dev", "etc", "proc", "sys", "tmp", "root", "home"):
        (image / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (image / name).symlink_to(f"usr/{name}")
    for name in ("hosts", "resolv.conf", "passwd", "group"):
        (image / "etc" / name).touch()
    for name in PROGRAMS:
        program = shutil.which(name, path="/usr/bin:/bin")
        assert program is not None
        shutil.copy(program, image / "usr/bin" / name)
    return image


def library_mounts() -> list[str]:
    """Return the mounts that programs in the image need, those of the Python of the tests included."""
    return [*(path for path in LIBRARIES if Path(path).is_dir()), *map(str, mounted_paths())]


def missing_charliecloud() -> str | None:
    """Return why no container of Charliecloud can run here; None where one can."""
    if shutil.which("ch-run") is None:
        return "ch-run is not installed (tests/helpers/install_packages.sh)"
    namespaces = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    tried = subprocess.run(namespaces, capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"no user namespaces: {tried.stderr.strip()}"


def container_section(image: Path) -> dict[str, object]:
    """Make an image at `image`; return the section of a container with the Python of the tests and this package."""
    return {
        "image": str(make_image(image)),
        "mounts": library_mounts(),
        "python": sys.executable,
        "code": "mounted",
    }


def runtime_here(variables: pytest.MonkeyPatch) -> dict[str, object]:
    """Return the fields of a runtime that works here: Charliecloud or, where it cannot run, the stand-in."""
    variables.setenv("USER", os.environ.get("USER", "root"))  # ch-run needs it
    if (reason := missing_charliecloud()) is None:
        return {"runtime": "charliecloud", "options": ["--private-tmp"]}
    warnings.warn(f"no real container in this test: {reason}", stacklevel=2)
    return use_stand_in(variables)


def use_stand_in(variables: pytest.MonkeyPatch) -> dict[str, object]:
    """Put the stand-in for apptainer into PATH; return the fields of its runtime."""
    variables.setenv("PATH", f"{Path(__file__).parent}:{os.environ['PATH']}")
    return {"runtime": "apptainer"}
