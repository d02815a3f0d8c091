"""Exported models (ONNX, TorchScript) with the interface of a `Detector`. They run on the CPU in fp32."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from hpc_yolo.core.errors import CheckpointError
from hpc_yolo.data.images import GREY
from hpc_yolo.inference.export import PACKAGES_HINT, tracing
from hpc_yolo.inference.suppressed import COLUMNS, Suppression, as_decoded
from hpc_yolo.models.heads.base import BOX_AND_OBJECTNESS
from hpc_yolo.weights.torchscript import EXPORT_HINT, NO_METADATA, read_torchscript_metadata

MAX_METADATA_LETTERS = 10_000_000
MAX_STRIDE = 1024
INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
REFUSAL = re.compile(r"\s+")

Run = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class About:
    """The metadata of an exported file.

    Attributes:
        batch: images of a forward pass; None if any number is accepted.
        image_hw: sides in pixels; None if all multiples of `stride` are accepted.
        imgsz: image size in training, in pixels; None if the file does not have it.
        suppression: of a file that returns detections, as `Suppressed` does; None: it returns decoded rows.
    """

    names: tuple[str, ...]
    stride: int
    batch: int | None = None
    image_hw: tuple[int, int] | None = None
    imgsz: int | None = None
    suppression: Suppression | None = None

    @property
    def num_columns(self) -> int:
        """Columns of the output."""
        return COLUMNS if self.suppression else BOX_AND_OBJECTNESS + len(self.names)


class ExportedModel(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> (decoded rows (B, rows, 5 + classes), no raw outputs), like a `Detector`."""

    def __init__(self, path: Path, about: About, run: Run) -> None:
        super().__init__()
        self.path, self.about, self._run = path, about, run
        # Gives device and dtype of the input, as the parameters of a `Detector` do.
        self.placeholder = nn.Parameter(torch.zeros(0), requires_grad=False)

    @property
    def image_stride(self) -> int:
        """Number of pixels of which sides of images are multiples."""
        return self.about.stride

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Run the exported model on images, in batches of the size that it was exported with."""
        framed = self._framed(images)
        size = self.about.batch or max(len(images), 1)
        parts = []
        for part in torch.split(framed, size):
            missing = size - len(part) if self.about.batch is not None else 0
            found = self._run(functional.pad(part, (0, 0, 0, 0, 0, 0, 0, missing)).contiguous())
            self._require_rows(found, size if missing else len(part))
            parts.append(found[: len(part)].float())
        joined = torch.cat(parts)
        return as_decoded(joined, len(self.about.names)) if self.about.suppression else joined, []

    def _framed(self, images: torch.Tensor) -> torch.Tensor:
        """Return `images`, padded with grey on the right and below to the size that the file accepts."""
        if self.about.image_hw is None:
            return images
        (height, width), (found_height, found_width) = self.about.image_hw, images.shape[2:]
        if found_height > height or found_width > width:
            raise CheckpointError(
                f"{self.path}: takes images of {height} x {width} pixels (height x width), not {found_height} x "
                f"{found_width}",
                hint="leave --imgsz out, or export it again with --dynamic",
            )
        return functional.pad(images, (0, width - found_width, 0, height - found_height), value=GREY[0] / 255)

    def _require_rows(self, found: torch.Tensor, batch: int) -> None:
        if found.ndim != 3 or found.shape[0] != batch or found.shape[2] != self.about.num_columns:
            raise _other_output(self.path, tuple(found.shape), len(self.about.names))


def load_exported(path: Path) -> ExportedModel:
    """Return the model in an ONNX or TorchScript file.

    Raises:
        CheckpointError: the file is damaged, lacks metadata, or has another output than YOLOv5; or the package that
            runs it is missing.
    """
    about, run = _load_onnx(path) if path.suffix.lower() == ".onnx" else _load_torchscript(path)
    return ExportedModel(path, about, run).eval()


def _load_onnx(path: Path) -> tuple[About, Run]:
    try:
        import onnxruntime
    except ImportError as error:
        raise CheckpointError(f"{path}: running it needs the package onnxruntime", hint=PACKAGES_HINT) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        content = path.read_bytes()  # from memory, so that it cannot refer to other files
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        properties = session.get_modelmeta().custom_metadata_map
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # the runtime has a dozen exception classes
        raise CheckpointError(
            f"{path}: onnxruntime {onnxruntime.__version__} cannot load it: {_line(error)}"
        ) from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in INPUT_TYPES:
        raise CheckpointError(
            f"{path}: takes {', '.join(f'{value.name} {value.type} {value.shape}' for value in inputs)}; one input of "
            "images is needed, batch x 3 x height x width, float",
            hint=EXPORT_HINT,
        )
    batch, _, height, width = (side if isinstance(side, int) else None for side in inputs[0].shape)
    hw = (height, width) if height is not None and width is not None else None
    about = _about(path, properties, batch, hw)
    shape = outputs[0].shape
    if len(shape) != 3 or (isinstance(shape[2], int) and shape[2] != about.num_columns):
        raise _other_output(path, shape, len(about.names))
    name, kind = inputs[0].name, INPUT_TYPES[inputs[0].type]

    def run(images: torch.Tensor) -> torch.Tensor:
        try:
            (found, *_) = session.run([outputs[0].name], {name: images.numpy().astype(kind, copy=False)})
        except Exception as error:
            raise CheckpointError(f"{path}: onnxruntime cannot run it: {_line(error)}") from error
        return torch.from_numpy(found)

    return about, run


def _load_torchscript(path: Path) -> tuple[About, Run]:
    try:
        properties = json.loads(read_torchscript_metadata(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {NO_METADATA}", hint=EXPORT_HINT) from error
    if not isinstance(properties, dict):
        raise CheckpointError(f"{path}: {NO_METADATA}", hint=EXPORT_HINT)
    about = _about(path, properties, *_torchscript_size(path, properties))
    try:
        with tracing():
            loaded: Any = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # torch raises RuntimeError, and others for damaged archives
        raise CheckpointError(f"{path}: torch {torch.__version__} cannot load it: {_line(error)}") from error

    def run(images: torch.Tensor) -> torch.Tensor:
        try:
            with torch.no_grad():
                found = loaded(images)
        except Exception as error:
            raise CheckpointError(f"{path}: torch cannot run it: {_line(error)}") from error
        while isinstance(found, (tuple, list)) and found:
            found = found[0]
        if not isinstance(found, torch.Tensor):
            raise _other_output(path, type(found).__name__, len(about.names))
        return found

    return about, run


def _torchscript_size(path: Path, properties: dict[str, Any]) -> tuple[int | None, tuple[int, int] | None]:
    """Return (batch, (height, width)) that the file accepts; None for those that are dynamic."""
    if properties.get("dynamic") is True:
        return None, None
    shape = properties.get("shape")
    if not isinstance(shape, list) or len(shape) != 4 or not all(map(_is_side, shape)):
        raise CheckpointError(f"{path}: its metadata lacks the image size", hint=EXPORT_HINT)
    return shape[0], (shape[2], shape[3])


def _about(path: Path, properties: dict[str, Any], batch: int | None, hw: tuple[int, int] | None) -> About:
    """Return the metadata in `properties`: class names as {index: name} in Python or JSON, the stride as a number.

    Raises:
        CheckpointError: class names or stride are missing or invalid.
    """
    names, stride = _value(properties.get("names")), _value(properties.get("stride"))
    if names is None or stride is None:
        raise CheckpointError(f"{path}: {NO_METADATA}", hint=EXPORT_HINT)
    if isinstance(names, dict):
        names = {str(index): name for index, name in names.items()}
        names = [names.get(str(number)) for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path}: its class names are not numbered 0, 1, 2 …", hint=EXPORT_HINT)
    stride = int(stride) if isinstance(stride, float) and stride.is_integer() else stride
    if not _is_side(stride) or stride > MAX_STRIDE:
        raise CheckpointError(f"{path}: its stride is {str(stride)[:20]}", hint=EXPORT_HINT)
    imgsz = _value(properties.get("imgsz"))
    suppression = _suppression(properties["nms"]) if "nms" in properties else None
    return About(tuple(names), stride, batch, hw, imgsz if _is_side(imgsz) else None, suppression)


def _suppression(written: object) -> Suppression | None:
    """Return the settings in the metadata; those that suppress nothing more where another program wrote no settings."""
    settings = _value(written)
    if settings is False:
        return None
    try:
        return msgspec.convert(settings, Suppression)
    except msgspec.ValidationError:
        return Suppression(conf_threshold=0.0, iou_threshold=1.0, max_detections=sys.maxsize)


def _value(written: object) -> Any:
    """Return the value of a property, which ONNX stores as text; None if it is invalid."""
    if not isinstance(written, str):
        return written
    if len(written) > MAX_METADATA_LETTERS:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            return read(written)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _is_side(value: object) -> bool:
    return type(value) is int and value > 0


def _other_output(path: Path, shape: object, num_classes: int) -> CheckpointError:
    return CheckpointError(
        f"{path}: its output is {shape}; that of YOLOv5 is batch x rows x {BOX_AND_OBJECTNESS + num_classes}: box, "
        f"objectness, {num_classes} classes",
        hint="run a model of another family with the program that wrote it",
    )


def _line(error: Exception) -> str:
    return REFUSAL.sub(" ", str(error)).strip()[:300]
