"""Explanations of failed imports: the missing or incompatible library, and the command that installs it.

Minimal images and compute nodes lack desktop libraries that OpenCV's wheel needs; a wheel may be newer than the
machine's C library; two wheels may be incompatible. Each is reported in one message instead of a traceback per rank.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import subprocess
import sys
import traceback
from collections.abc import Sequence

from hpc_yolo.core.errors import InstallationError, SpecError

# Packages whose import may fail because of another library, with their names for pip.
PACKAGES = {"cv2": "opencv-python", "torch": "torch", "torchvision": "torchvision", "numpy": "numpy"}
DISTRIBUTIONS = PACKAGES | {
    **{"yaml": "pyyaml", "msgspec": "msgspec", "click": "click", "rich": "rich", "safetensors": "safetensors"},
    **{"submitit": "submitit", "pynvml": "nvidia-ml-py", "PIL": "pillow"},
}
# System packages that contain a library: on Debian and Ubuntu, on RHEL and its relatives.
SYSTEM_PACKAGES = {
    "libGL.so.1": ("libgl1", "mesa-libGL"),
    "libEGL.so.1": ("libegl1", "mesa-libEGL"),
    "libgthread-2.0.so.0": ("libglib2.0-0", "glib2"),
    "libglib-2.0.so.0": ("libglib2.0-0", "glib2"),
    "libxcb.so.1": ("libxcb1", "libxcb"),
    "libX11.so.6": ("libx11-6", "libX11"),
    "libXext.so.6": ("libxext6", "libXext"),
    "libXrender.so.1": ("libxrender1", "libXrender"),
    "libSM.so.6": ("libsm6", "libSM"),
    "libICE.so.6": ("libice6", "libICE"),
    "libgomp.so.1": ("libgomp1", "libgomp"),
    "libstdc++.so.6": ("libstdc++6", "libstdc++"),
    "libz.so.1": ("zlib1g", "zlib"),
    "libnuma.so.1": ("libnuma1", "numactl-libs"),
}
HEADLESS = "pip uninstall opencv-python && pip install opencv-python-headless: it needs no desktop libraries"
NUMPY_ABI = ("_ARRAY_API", "multiarray failed to import", "compiled against ABI", "binary incompatibility", "NumPy 1.x")
IMPORT_TIMEOUT_S = 10.0
_LIBRARY = re.compile(r"(?P<library>[\w.+-]+\.so[\w.]*): cannot open shared object file")
_TOO_OLD = re.compile(r"(?P<library>[\w.+-]+\.so[\w.]*): version [`'](?P<version>[\w.]+)'? not found")


def explain_import(error: BaseException) -> InstallationError | None:
    """Return the error that explains a failed import; None if no known package is missing or failed."""
    if isinstance(error, ModuleNotFoundError) and (name := (error.name or "").partition(".")[0]) in DISTRIBUTIONS:
        return _missing(name)
    # Frames at module level only: the error was raised during an import, not by a later call.
    frames = [frame for frame, _line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "<module>"]
    modules = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames]
    failed = next((module for module in modules if module in PACKAGES), None)
    return None if failed is None else explain(failed, str(error))


def explain(package: str, text: str) -> InstallationError:
    """Return the error for `package`, whose import ended with `text`."""
    if absent := _LIBRARY.search(text):
        return _error(package, f"the library {absent['library']} is missing", _advice(package, absent["library"]))
    if too_old := _TOO_OLD.search(text):
        advice = "take a newer system image or container, or conda's packages, which bring their own; or an older wheel"
        reason = f"{too_old['library']} of this machine is too old, {too_old['version']} is needed"
        return _error(package, reason, advice)
    if any(clause in text for clause in NUMPY_ABI):
        advice = "pip install --upgrade numpy opencv-python torch torchvision, in one command"
        return _error(package, f"it was built for another NumPy: {_first_line(text)}", advice)
    if package == "torchvision" and "torchvision::" in text:
        advice = "pip install --upgrade torch torchvision, in one command"
        return _error(package, f"it was built for another torch: {_first_line(text)}", advice)
    return _error(package, _first_line(text), f"pip install --force-reinstall {PACKAGES[package]}")


def require_import(packages: Sequence[str] = ("cv2",), python: str = sys.executable) -> None:
    """Import `packages` in another process, with the interpreter `python`.

    If the interpreter does not start, or takes too long, nothing is raised.

    Raises:
        InstallationError: one of them cannot be imported.
    """
    for package in packages:
        command = [python, "-c", f"import {package}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return
        if done.returncode:
            last_line = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            if f"No module named {package!r}" in last_line:
                raise _missing(package, python)
            # With an older NumPy the reason is above the last line, which does not name it.
            text = next((line for line in done.stderr.splitlines() if any(c in line for c in NUMPY_ABI)), last_line)
            raise explain(package, text.partition("Error: ")[2] or text)


def _missing(name: str, python: str = sys.executable) -> InstallationError:
    return InstallationError(
        f"the package {DISTRIBUTIONS[name]} is not installed for {python}",
        hint=f"{python} -m pip install {DISTRIBUTIONS[name]}; or set cluster.python to another interpreter",
    )


def _error(package: str, reason: str, advice: str) -> InstallationError:
    called = PACKAGES[package] if package == PACKAGES[package] else f"{PACKAGES[package]} ({package})"
    return InstallationError(f"{called} cannot be imported on {platform.node()}: {reason}", hint=advice)


def _advice(package: str, library: str) -> str:
    found = SYSTEM_PACKAGES.get(library)
    if found is not None:
        install = f"apt-get install {found[0]} (Debian, Ubuntu) or dnf install {found[1]} (RHEL, Rocky), on all nodes"
    elif library.startswith(("libcu", "libnv", "libnccl")):
        return f"pip install --force-reinstall {PACKAGES[package]}, or load the CUDA module that it was built for"
    else:
        install = f"install the package that has it on all nodes: apt-file search {library}, dnf provides '*/{library}'"
    return f"{install}; or {HEADLESS}" if package == "cv2" else install


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason is given"])[0]


def require_tensorboard() -> None:
    """Check that TensorBoard is installed.

    Raises:
        SpecError: it is not.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise SpecError(
            "train.tensorboard: needs the package tensorboard, which is not installed here",
            hint="pip install 'hpc-yolo[tensorboard]', or --set train.tensorboard=false",
        )


def require_tracker(package: str) -> None:
    """Check that the package of a tracker is installed.

    Args:
        package: its name, which is also that of the extra.

    Raises:
        SpecError: it is not.
    """
    if importlib.util.find_spec(package) is None:
        raise SpecError(
            f"tracking.to: needs the package {package}, which is not installed for {sys.executable}",
            hint=f"pip install 'hpc-yolo[{package}]', or --set tracking=null",
        )
