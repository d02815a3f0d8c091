"""torchvision's compiled NMS without its Python package.

The package imports torch's compiler, SymPy and a thousand more modules: half of the time in which `val` and `predict`
start, and as many files to open on a shared file system.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

LIBRARY_PATTERN = "_C*.so"  # _C.so, or _C_stable.so of newer versions

NmsOperator = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


def load_nms() -> NmsOperator:
    """Return the operator: boxes (n, 4) xyxy, scores (n,) and the IoU threshold to the kept indices, best first.

    Raises:
        ImportError: torchvision is not installed, or does not fit torch.
    """
    spec = find_spec("torchvision")
    for directory in (spec and spec.submodule_search_locations) or ():
        for library in sorted(Path(directory).glob(LIBRARY_PATTERN)):
            with contextlib.suppress(OSError):  # it does not fit torch; the import below says so
                torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    operators: Any = torch.ops.torchvision
    if not hasattr(operators, "nms"):
        import torchvision  # of another layout, or with its own words for what is wrong

        operators = torchvision.ops
    operator: NmsOperator = operators.nms
    return operator
