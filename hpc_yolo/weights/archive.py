"""Which form a file of weights has, and what the pickle of a torch archive describes.

A pickle is a program; `machine` says what it describes, without running any of it. Nothing here imports torch, so that
a login node can look before it submits.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.core.text import printable
from hpc_yolo.weights.machine import NETWORKS, Record, Tensor, run
from hpc_yolo.weights.store import published_names

MAX_PICKLE_BYTES = 16 * 2**20  # of the largest model it is 256 kB
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
    """An open file of torch, whose entries are all in the directory `prefix`."""

    path: Path
    file: zipfile.ZipFile
    prefix: str

    def read(self, entry: str) -> bytes:
        """Return the bytes of `entry`."""
        return self.file.read(f"{self.prefix}/{entry}")


def is_pickled(path: Path) -> bool:
    """Return whether `path` is a torch archive, by its content, or says so by its name."""
    return path.suffix.lower() in PICKLED_SUFFIXES or zipfile.is_zipfile(path)


def require_usable_weights(weights: Path) -> None:
    """Check that `weights` is a file with which training can begin, as far as that is seen without torch, or published.

    Raises:
        CheckpointError: it is neither, or a model of another form or of another program.
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
    """Refuse files whose names say that they are of another form, lest they are called damaged checkpoints.

    Raises:
        CheckpointError: `path` is a model of another form.
    """
    suffix = path.suffix.lower()
    if suffix in EXPORTED_SUFFIXES:
        raise CheckpointError(
            f"{path}: is an exported model, which has no layers to go on with",
            hint="val and predict run it; everything else needs the .safetensors or .pt file that it was made of",
        )
    if suffix in OTHER_FORMS:
        raise CheckpointError(f"{path}: is a {OTHER_FORMS[suffix]} file, which is not read", hint=READ_FORMS)


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[TorchArchive]:
    """Open the torch archive at `path`, and say what is wrong with it if anything is.

    Raises:
        CheckpointError: it is no such file, or damaged; whatever its pickle provokes in the block.
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
    except Exception as error:  # whatever a made-up pickle provokes; none of it has run anything
        raise CheckpointError(f"{path}: its pickle makes no sense: {type(error).__name__}: {error}") from error


def described_model(archive: TorchArchive) -> tuple[Record, object]:
    """Return (what the pickle says of the model, of a training state the averaged one; the options of its training).

    Raises:
        CheckpointError: it holds something that no such file needs, or no detector; the message names it.
        Exception: it makes no sense.
    """
    path = archive.path
    content = run(archive.read("data.pkl"), str(path))
    if isinstance(content, Record):
        content = {"model": content}
    found = content.get("ema") or content.get("model") if isinstance(content, dict) else None
    if not isinstance(found, Record):
        raise CheckpointError(
            f"{path}: holds no model under `model` or `ema`{_holds_instead(content)}",
            hint="a file of tensors alone does not describe their model; use the file that training wrote",
        )
    if found.kind not in NETWORKS:
        raise CheckpointError(f"{path}: is a {found.kind}; this version reads detectors")
    return found, content.get("opt")


def _checked_prefix(archive: zipfile.ZipFile, path: Path) -> str:
    """Return the directory that all entries are in. Nothing may be larger inside than outside."""
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
            raise CheckpointError(f"{path}: {entry.filename} is compressed, which torch never does")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(f"{path}: its entries claim more bytes than the file has")
    pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(
            f"{path}: {len(pickles)} pickles in the archive; torch writes one", hint="is it a torch file at all?"
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
            hint="have it saved again with a newer torch by somebody who trusts it",
        )
    is_part = content.startswith(ZIP_START)
    looks = "the beginning of one" if is_part else f"it begins as {describe_content(content)}"
    return CheckpointError(f"{path}: is not a torch archive: {error}; {looks}", hint="fetch it again")


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
