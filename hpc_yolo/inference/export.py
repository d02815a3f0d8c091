"""Export of models to ONNX and TorchScript; each exported model is run and compared with the original."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hpc_yolo.core.errors import CheckpointError, HpcYoloError
from hpc_yolo.core.files import write_atomic
from hpc_yolo.inference.suppressed import COLUMNS, Suppressed, Suppression
from hpc_yolo.models import Detector
from hpc_yolo.models.fuse import fused

SUFFIXES = {"onnx": ".onnx", "torchscript": ".torchscript"}
TOLERANCE = 1e-4  # relative to the scale of a value: the image side for boxes, 1 for scores
COMPARED = range(20, 50)  # boxes above the threshold with which a suppression is compared
PACKAGES_HINT = "pip install 'hpc-yolo[export]'"

Runner = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ExportOptions:
    """Shape of the images that an exported model accepts, and what it returns.

    Attributes:
        image_hw: height and width in pixels.
        dynamic: accept any number of images, and sides of any multiples of the stride.
        trained_imgsz: written to the file, as the default size of a dynamic model.
        suppression: settings of a suppression inside the file, which then returns detections; None: decoded rows.
    """

    image_hw: tuple[int, int]
    batch: int = 1
    dynamic: bool = False
    opset: int = 17
    trained_imgsz: int | None = None
    suppression: Suppression | None = None


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked.

    Attributes:
        difference: largest difference from the output of the original, relative as in `TOLERANCE`.
    """

    path: Path
    difference: float


class Decoded(nn.Module):
    """Map images (B, 3, H, W) in [0, 1] to (B, rows, 5 + classes): cxcywh in pixels, objectness, class scores."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the decoded detections of `images`."""
        decoded: torch.Tensor = self.model(images)[0]
        return decoded


def export(model: Detector, names: Sequence[str], form: str, target: Path, options: ExportOptions) -> Exported:
    """Export `model` with the class names `names` to `target`, after loading the result and comparing outputs.

    Args:
        form: the format, onnx or torchscript.

    Raises:
        CheckpointError: sides are not multiples of the stride, a package is missing, the format lacks an operator, or
            outputs differ; `target` is then not created.
    """
    stride = model.image_stride
    if any(side % stride for side in options.image_hw):
        raise CheckpointError(f"sides of {options.image_hw} pixels: they must be multiples of {stride}")
    if options.suppression is not None and form != "onnx":
        raise CheckpointError(f"{target}: {form} has no suppression of its own; --nms is for onnx")
    written: nn.Module = Decoded(fused(model))
    if options.suppression is not None:
        written = Suppressed(written, options.suppression)
    write, load = {"onnx": (_onnx, _run_onnx), "torchscript": (_torchscript, _run_torchscript)}[form]
    try:
        content = write(written.eval(), _about(stride, names, options), options)
        shapes = _checked_shapes(options, stride)
        difference = max(_difference(written, load(content), shape) for shape in shapes)
        if isinstance(written, Suppressed) and (lower := _with_detections(written, shapes[0])) is not None:
            copy = write(lower.eval(), {}, options)
            difference = max(difference, _difference(lower, load(copy), shapes[0]))
    except HpcYoloError:
        raise
    except Exception as error:  # exporters and runtimes have their own exception classes
        raise CheckpointError(
            f"{target}: {form} cannot be written: {type(error).__name__}: {error}", hint="try another --opset"
        ) from error
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"{target}: output of {form} differs by {difference:.1e}, at most {TOLERANCE:.0e} is allowed; not written"
        )
    try:
        write_atomic(target, content, mode=0o644)
    except OSError as error:
        raise CheckpointError(f"{target}: cannot be written: {error.strerror}") from error
    return Exported(target, difference)


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Suppress the tracer's warnings inside the block.

    The tracer is deprecated, but its successors need further packages to produce the same graph of a model without
    branches. It also warns about every value that becomes a constant; the outputs are compared afterwards.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _onnx(model: nn.Module, about: dict[str, Any], options: ExportOptions) -> bytes:
    try:
        import onnx
    except ImportError as error:
        raise CheckpointError("ONNX needs the packages onnx and onnxruntime", hint=PACKAGES_HINT) from error
    rows = {1: "rows"} if options.suppression is None else {}
    free = {"images": {0: "batch", 2: "height", 3: "width"}, "output0": {0: "batch"} | rows}
    buffer: Any = io.BytesIO()
    with tracing():
        torch.onnx.export(
            model,
            (torch.zeros(options.batch, 3, *options.image_hw),),
            buffer,
            dynamo=False,
            opset_version=options.opset,
            input_names=["images"],
            output_names=["output0"],
            dynamic_axes=free if options.dynamic else None,
        )
    graph = onnx.load_from_string(buffer.getvalue())
    if options.suppression is not None:
        sizes = graph.graph.output[0].type.tensor_type.shape.dim  # the exporter does not know them
        sizes[1].dim_value, sizes[2].dim_value = options.suppression.max_detections, COLUMNS
        if not options.dynamic:
            sizes[0].dim_value = options.batch
    onnx.helper.set_model_props(graph, {name: str(value) for name, value in about.items()})
    onnx.checker.check_model(graph)
    content: bytes = graph.SerializeToString()
    return content


def _run_onnx(content: bytes) -> Runner:
    try:
        import onnxruntime
    except ImportError as error:
        raise CheckpointError("checking an ONNX file needs the package onnxruntime", hint=PACKAGES_HINT) from error
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _torchscript(model: nn.Module, about: dict[str, Any], options: ExportOptions) -> bytes:
    shape = [options.batch, 3, *options.image_hw]
    about = {"shape": shape} | about | ({"dynamic": True} if options.dynamic else {})
    buffer = io.BytesIO()
    with tracing():
        traced = torch.jit.trace(model, torch.zeros(shape))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, buffer, _extra_files={"config.txt": json.dumps(about)})
    return buffer.getvalue()


def _run_torchscript(content: bytes) -> Runner:
    with tracing():
        loaded = torch.jit.load(io.BytesIO(content))  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def run(images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = loaded(images)
        return found

    return run


def _about(stride: int, names: Sequence[str], options: ExportOptions) -> dict[str, Any]:
    """Return the metadata that other programs read from exported files."""
    about: dict[str, Any] = {"stride": stride, "names": dict(enumerate(names))}
    if options.trained_imgsz is not None:
        about["imgsz"] = options.trained_imgsz
    if options.suppression is not None:
        about["nms"] = asdict(options.suppression)
    return about


def _checked_shapes(options: ExportOptions, stride: int) -> list[tuple[int, int, int]]:
    """Return the (batch, height, width) to compare: the exported shape and, for a dynamic model, a second one."""
    shapes = [(options.batch, *options.image_hw)]
    return [*shapes, (options.batch + 1, 2 * stride, 3 * stride)] if options.dynamic else shapes


@torch.no_grad()
def _with_detections(model: Suppressed, shape: tuple[int, int, int]) -> Suppressed | None:
    """Return `model` with so low a threshold that it finds boxes in noise; None if it has detections already.

    A trained model finds nothing there above a usual threshold: zeros would be compared with zeros.
    """
    scores = model.scores(model.decode(_noise(shape))).amax(dim=2).flatten().sort(descending=True).values
    if scores[0] > model.settings.conf_threshold:
        return None
    above, below = scores[COMPARED.start - 1 : COMPARED.stop].unfold(0, 2, 1).unbind(1)
    widest = (above - below).argmax()  # rounding must not move a score across the threshold
    threshold = (above[widest] + below[widest]).item() / 2
    return Suppressed(model.decode, replace(model.settings, conf_threshold=threshold))


@torch.no_grad()
def _difference(model: nn.Module, run: Runner, shape: tuple[int, int, int]) -> float:
    _, height, width = shape
    images = _noise(shape)
    expected, found = model(images), run(images)
    scale = torch.ones(expected.shape[2])
    scale[:4] = max(height, width)
    expected, found = expected / scale, found / scale
    if isinstance(model, Suppressed):
        difference = max(map(difference_of_detections, expected, found))
    else:
        difference = (expected - found).abs().max().item()
    return float(np.nan_to_num(difference, nan=np.inf))


def _noise(shape: tuple[int, int, int]) -> torch.Tensor:
    """Return images of `shape`, batch, height and width, with random pixels."""
    batch, height, width = shape
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def difference_of_detections(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Return the largest distance of a detection from the nearest one of the other rows, either way.

    Scores that differ by the rounding of the two programs only may be in another order.
    """
    first, second = expected[expected[:, 4] > 0], found[found[:, 4] > 0]
    if len(first) != len(second):
        return np.inf
    distances = [
        (row - others).abs().amax(dim=1).min() for rows, others in ((first, second), (second, first)) for row in rows
    ]
    return torch.stack(distances).max().item() if distances else (expected - found).abs().max().item()
