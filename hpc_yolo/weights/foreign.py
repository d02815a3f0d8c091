"""Weights of other programs, recognised by the class names in them. Nothing is imported or executed."""

from __future__ import annotations

import _compat_pickle
import re
import sys
from collections.abc import Iterator

from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.core.text import printable

MAX_SCANNED = 1_000_000  # instructions
MAX_NAME = 200

# Top-level modules, and the programs that write files with their classes.
PROGRAMS = {
    "ultralytics": "the package ultralytics (YOLOv8 and newer, or a YOLOv5u)",
    "yolov6": "YOLOv6",
    "yolox": "YOLOX",
    "mmdet": "MMDetection",
    "mmengine": "OpenMMLab",
    "mmyolo": "MMYOLO",
    "super_gradients": "SuperGradients (YOLO-NAS)",
    "detectron2": "Detectron2",
    "pytorch_lightning": "PyTorch Lightning",
    "lightning": "PyTorch Lightning",
    "rfdetr": "RF-DETR",
    "nanodet": "NanoDet",
}
# Modules of repositories that people run inside a clone: YOLOv3, v5, v7, v9 and others use the same names.
CLONE_MODULES = ("models", "utils", "nets", "yolo")
# Plain values of the standard library in files of other programs.
PLAIN = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|collections\.\w+|datetime\.\w+|decimal\.Decimal|uuid\.UUID"
)
# Protocol 2 writes module names of Python 2.
PYTHONS_OWN = (
    sys.stdlib_module_names | {name.partition(".")[0] for name in _compat_pickle.IMPORT_MAPPING} | {"exceptions"}
)
CLASS = re.compile(r"(?:[A-Za-z_]\w*\.)+[A-Z]\w*")
ONLY_DETECTORS = "YOLOv5 detectors (yolov5n.pt to yolov5x6.pt, and those trained from them) are read"


def foreign_file(program: bytes, source: str, allowed: set[str]) -> CheckpointError | None:
    """Return an error that names the program that wrote the pickle `program`; None if no class in it identifies one.

    Args:
        source: name of the file for the error.
        allowed: globals that files of YOLOv5 hold.
    """
    others = list(dict.fromkeys(name for name in _globals(program) if name not in allowed))
    classes = [name for name in others if _is_foreign_class(name)]
    if not classes:
        return None
    named = min(classes, key=lambda name: (name.startswith("torch."), classes.index(name)))
    suspicious = [name for name in others if name not in classes and not PLAIN.fullmatch(name)]
    message = f"{source}: {_program(named)}: it holds a {_shown(named)}; nothing of it was run"
    if suspicious:
        message += f". It also imports {_shown(suspicious[0])}, which reading a model does not need"
        return CheckpointError(message, hint="do not load it with any program unless you trust its author")
    return CheckpointError(message, hint=f"only {ONLY_DETECTORS}; use this file with the program that wrote it")


def _program(name: str) -> str:
    top = name.partition(".")[0]
    if top in PROGRAMS:
        return f"was written by {PROGRAMS[top]}, not by YOLOv5"
    if top in CLONE_MODULES:
        return "was written by another YOLO program (YOLOv3, YOLOv7, YOLOv9 …) or a changed YOLOv5"
    if top == "torch":
        return "holds a model that is not a YOLOv5 detector"
    return f"was written by the package {printable(top)[:MAX_NAME]}, not by YOLOv5"


def _is_foreign_class(name: str) -> bool:
    """Return whether `name` is a class outside Python's standard library, whose classes may be an attack."""
    return CLASS.fullmatch(name) is not None and name.partition(".")[0] not in PYTHONS_OWN


def _shown(name: str) -> str:
    return printable(name)[:MAX_NAME]


def _globals(program: bytes) -> Iterator[str]:
    """Yield the names of all globals in a pickle, up to the first invalid instruction."""
    import pickletools  # as in `machine`

    texts = ["", ""]  # the last two pushed strings, the operands of STACK_GLOBAL
    memo: dict[object, str | None] = {}
    pushed: str | None = None
    try:
        for number, (instruction, argument, _) in enumerate(pickletools.genops(program)):
            if number >= MAX_SCANNED:
                return
            if instruction.name in ("GLOBAL", "INST"):
                yield str(argument).replace(" ", ".", 1)
            elif instruction.name == "STACK_GLOBAL":
                yield ".".join(texts)
            elif instruction.name == "MEMOIZE":
                memo[len(memo)] = pushed
            elif instruction.name.endswith("PUT"):
                memo[argument] = pushed
            else:
                pushed = memo.get(argument) if instruction.name.endswith("GET") else argument
                pushed = pushed if isinstance(pushed, str) else None
                texts = texts if pushed is None else [texts[1], pushed]
    except Exception:  # an incomplete pickle; reading it raises the error
        return
