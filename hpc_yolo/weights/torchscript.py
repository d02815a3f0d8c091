"""Checks of TorchScript archives before they are loaded: their metadata, and the operations that their program calls.

A TorchScript file is a program that `torch.jit.load` runs without Python, and a few of torch's operations read or write
files. The operations of detectors are listed here; a file that calls any other is refused.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.core.text import printable

METADATA_ENTRY = "config.txt"
MAX_CODE_BYTES = 16 * 2**20  # the largest model has about a megabyte
MAX_METADATA_BYTES = 16 * 2**20
NATIVE_CLASSES = b"torch.classes"  # C++ classes, whose objects run their own code when they are loaded

CALL = re.compile(r"([A-Za-z_][\w.]*)\s*\(")
METHOD = re.compile(r"\bdef\s+(\w+)")
MENTION = re.compile(r"(?<![\w.])(?:torch|ops)\b[\w.]*")  # an operation may be called elsewhere than where it is named
TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
CLASS_LINE = re.compile(r"^class .*$", re.MULTILINE)

KEYWORDS = {"and", "assert", "elif", "for", "if", "in", "not", "or", "return", "while"}
BUILT_IN = {"annotate", "bool", "float", "getattr", "int", "len", "range", "ops.prim.NumToTensor"}
_OPERATIONS = """
    _convolution add add_ amax arange batch_norm cat ceil chunk clamp clamp_ clone constant_pad_nd contiguous conv2d
    copy_ detach device dim div div_ eq exp expand expand_as fill_ flatten floor floor_divide full gelu gelu_ gt
    hardsigmoid hardswish hardswish_ hardtanh hardtanh_ index leaky_relu leaky_relu_ len lt max max_pool2d mean meshgrid
    min mish mish_ mul mul_ narrow ne neg ones ones_like permute pow pow_ relu relu_ remainder reshape round select
    sigmoid sigmoid_ silu silu_ size slice softmax softplus split split_with_sizes sqrt squeeze stack sub sub_ sum tanh
    tensor to transpose type_as unbind unsqueeze upsample_nearest2d view zeros zeros_like
"""
OPERATIONS = frozenset(_OPERATIONS.split())


def is_torchscript(path: Path) -> bool:
    """Return whether `path` is a TorchScript archive, independent of its name."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read_torchscript_metadata(path: Path) -> str:
    """Return the metadata of the file, after checking the operations of its program.

    Raises:
        CheckpointError: it is not a TorchScript archive, has no metadata, or calls an operation that no detector needs.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
            code = [entry for name, entry in entries.items() if name.startswith("code/") and name.endswith(".py")]
            if not code:
                raise CheckpointError(f"{path}: is not a TorchScript file: it has no program")
            if sum(entry.file_size for entry in code) > MAX_CODE_BYTES:
                raise CheckpointError(f"{path}: its program is larger than {MAX_CODE_BYTES >> 20} MiB")
            _require_known_calls(path, "\n".join(archive.read(entry).decode() for entry in code))
            if any(NATIVE_CLASSES in archive.read(entry) for name, entry in entries.items() if name.endswith(".pkl")):
                raise CheckpointError(f"{path}: holds objects of C++ classes, which no detector needs; it was not run")
            metadata = entries.get(f"extra/{METADATA_ENTRY}")
            if metadata is None or metadata.file_size > MAX_METADATA_BYTES:
                raise CheckpointError(f"{path}: {NO_METADATA}", hint=EXPORT_HINT)
            return archive.read(metadata).decode()
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: is not a complete TorchScript file: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: its program is not text: {error}") from error


NO_METADATA = "has no usable metadata: class names or stride are missing"
EXPORT_HINT = "export it again from its .safetensors or .pt file: hpc-yolo export FILE --include onnx torchscript"


def _require_known_calls(path: Path, code: str) -> None:
    plain = CLASS_LINE.sub("", TEXT.sub('""', code))
    own = {name for name in METHOD.findall(plain) if not name.startswith("__")}  # these run during loading
    for name in (*MENTION.findall(plain), *CALL.findall(plain)):
        if name.startswith(("torch", "ops")):
            known = name.removeprefix("torch.") in OPERATIONS or name in BUILT_IN
        else:
            known = name in BUILT_IN or name in KEYWORDS or name.rpartition(".")[2] in own
        if not known:
            raise CheckpointError(
                f"{path}: its program calls {printable(name)[:80]}, which no detector needs; it was not run",
                hint="if you trust it, run it with torch.jit.load; predict and val run what hpc-yolo export writes",
            )
