"""Formats of weights files, and the content of the pickle in a torch archive.

A pickle is a program; `machine` interprets it without executing it. Nothing here imports torch, so that weights can be
checked on a login node before a submission.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.core.text import printable
from hpc_yolo.weights.machine import MODEL_CLASSES, Record, Tensor, run
from hpc_yolo.weights.store import published_names

MAX_PICKLE_BYTES = 16 * 2**20  # the largest model has 256 kB
MAX_ENTRIES = 100_000
MAX_MODULE_NAME = 64
OLD_PICKLE, ZIP_START = b"\x80\x02", b"PK\x03\x04"
DESCRIBED_BYTES = 4096

CHECKPOINT_SUFFIX = ".safetensors"
PICKLED_SUFFIXES = (".pt", ".pth")
EXPORTED_SUFFIXES = (".onnx", ".torchscript")
OTHER_FORMS = {
    ".bin": "Hugging Face or OpenVINO",
    ".ckpt": "PyTorch Lightning or TensorFlow",
    ".engine": "TensorRT",
    ".h5": "Keras",
    ".keras": "Keras",
    ".mlmodel": "Core ML",
    ".param": "ncnn",
    ".pb": "TensorFlow",
    ".pdmodel": "PaddlePaddle",
    ".pdparams": "PaddlePaddle",
    ".tflite": "TensorFlow Lite",
    ".weights": "Darknet",
    ".xml": "OpenVINO",
}
READ_FORMS = (
    "weights are .safetensors files of this project and .pt files of YOLOv5; val and predict run .onnx and .torchscript"
)


@dataclass(frozen=True)
class TorchArchive:
    """An open torch archive, whose entries are all in the directory `prefix`."""

    path: Path
    file: zipfile.ZipFile
    prefix: str

    def read(self, entry: str) -> bytes:
        """Return the bytes of `entry`."""
        return self.file.read(f"{self.prefix}/{entry}")


def is_pickled(path: Path) -> bool:
    """Return whether `path` is a torch archive by its content or its suffix."""
    return path.suffix.lower() in PICKLED_SUFFIXES or zipfile.is_zipfile(path)


def require_usable_weights(weights: Path) -> None:
    """Check that training can begin with `weights`: a published name, or a file that passes the checks without torch.

    Raises:
        CheckpointError: it is neither, or a model of another format or program.
    """
    if not weights.is_file():
        if weights.name not in published_names():
            raise CheckpointError(
                f"weights: {weights} is neither a file nor published ({', '.join(published_names())})",
                hint="set weights: '' to train from scratch",
            )
    elif is_pickled(weights):
        with open_archive(weights) as archive:
            described_model(archive)
    else:
        refuse_other_forms(weights)


def refuse_other_forms(path: Path) -> None:
    """Refuse files with a suffix of another format, which would otherwise be reported as damaged checkpoints.

    Raises:
        CheckpointError: `path` is a model of another format.
    """
    suffix = path.suffix.lower()
    if suffix in EXPORTED_SUFFIXES:
        raise CheckpointError(
            f"{path}: is an exported model, which has no layers to build on",
            hint="val and predict run it; everything else needs the .safetensors or .pt file that it was made of",
        )
    if suffix in OTHER_FORMS:
        raise CheckpointError(f"{path}: is a {OTHER_FORMS[suffix]} file, which is not read", hint=READ_FORMS)


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[TorchArchive]:
    """Open the torch archive at `path`, and check its entries.

    Raises:
        CheckpointError: it is not such a file, or damaged; also replaces any error that its pickle causes in the block.
    """
    try:
        with zipfile.ZipFile(path) as file:
            yield TorchArchive(path, file, _checked_prefix(file, path))
    except CheckpointError:
        raise
    except zipfile.BadZipFile as error:
        raise _no_archive(path, error) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a crafted pickle can cause any error; none of it was executed
        raise CheckpointError(f"{path}: its pickle is invalid: {type(error).__name__}: {error}") from error


def described_model(archive: TorchArchive) -> tuple[Record, object]:
    """Return (the record of the model, of a training state the averaged one; the options of its training).

    Raises:
        CheckpointError: it holds an object that such files do not need, or no detector; the message names it.
        Exception: the pickle is invalid.
    """
    path = archive.path
    content = run(archive.read("data.pkl"), str(path))
    if isinstance(content, Record):
        content = {"model": content}
    found = content.get("ema") or content.get("model") if isinstance(content, dict) else None
    if not isinstance(found, Record):
        raise CheckpointError(
            f"{path}: holds no model under `model` or `ema`{_holds_instead(content)}",
            hint="tensors alone do not describe their model; use the file that training wrote",
        )
    if found.kind not in MODEL_CLASSES:
        raise CheckpointError(f"{path}: is a {found.kind}; only detectors are supported")
    return found, content.get("opt")


def _checked_prefix(archive: zipfile.ZipFile, path: Path) -> str:
    """Return the directory of all entries; refuse compressed entries and those that claim more bytes than the file."""
    entries = archive.infolist()
    if any("/code/" in entry.filename for entry in entries):
        raise CheckpointError(
            f"{path}: is a TorchScript file: it has a program instead of layers",
            hint="val and predict run it; everything else needs the .safetensors or .pt file that it was made of",
        )
    if len(entries) > MAX_ENTRIES:
        raise CheckpointError(f"{path}: {len(entries)} entries; a model has a few hundred")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"{path}: {entry.filename} is compressed; torch does not compress")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(f"{path}: its entries claim more bytes than the file has")
    pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(
            f"{path}: {len(pickles)} pickles in the archive; torch writes one", hint="check that it is a torch file"
        )
    if pickles[0].file_size > MAX_PICKLE_BYTES:
        raise CheckpointError(f"{path}: a pickle of {pickles[0].file_size} bytes; a model's has about a million")
    prefix = pickles[0].filename.removesuffix("/data.pkl")
    if f"{prefix}/byteorder" in archive.namelist() and archive.read(f"{prefix}/byteorder") != b"little":
        raise CheckpointError(f"{path}: was written on a big-endian machine")
    return prefix


def _no_archive(path: Path, error: Exception) -> CheckpointError:
    from hpc_yolo.data.decode import describe_content  # imports OpenCV, which reading weights does not need

    with path.open("rb") as file:
        content = file.read(DESCRIBED_BYTES)
    if content.startswith(OLD_PICKLE):
        return CheckpointError(
            f"{path}: is not a torch archive, but a pickle, as torch wrote before 1.6",
            hint="if you trust it, load it and save it again with a newer torch",
        )
    is_part = content.startswith(ZIP_START)
    looks = "it is incomplete" if is_part else f"its content is {describe_content(content)}"
    return CheckpointError(f"{path}: is not a torch archive: {error}; {looks}", hint="download it again")


def _holds_instead(content: object) -> str:
    """Return what a file holds instead of a model, for the error."""
    if isinstance(content, Tensor):
        return ", but one tensor"
    if not isinstance(content, dict):
        return ""
    for name in ("state_dict", "model_state_dict", "model", "ema", "params"):
        if isinstance(inner := content.get(name), dict) and inner:
            return f", but tensors alone under {name!r}, such as {printable(str(next(iter(inner))))[:MAX_MODULE_NAME]}"
    shown = ", ".join(printable(str(key))[:MAX_MODULE_NAME] for key in list(content)[:3])
    return f", but {shown}" if shown else ""
