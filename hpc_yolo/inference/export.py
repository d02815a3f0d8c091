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
MIN_COMPARED = 50  # rows with which a suppression is compared
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
        if isinstance(written, Suppressed):
            difference = max(_difference_of_suppression(written, content, shape) for shape in shapes)
        else:
            difference = max(_difference(written, load(content), shape) for shape in shapes)
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
    run = _onnx_outputs(content)
    return lambda images: run(images)[0]


def _onnx_outputs(content: bytes) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    try:
        import onnxruntime
    except ImportError as error:
        raise CheckpointError("checking an ONNX file needs the package onnxruntime", hint=PACKAGES_HINT) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # no warning of a constant that `_with_candidates` replaces
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(output) for output in session.run(None, {"images": images.numpy()})]


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
def _difference(model: nn.Module, run: Runner, shape: tuple[int, int, int]) -> float:
    _, height, width = shape
    images = _noise(shape)
    expected, found = model(images), run(images)
    scale = torch.ones(expected.shape[2])
    scale[:4] = max(height, width)
    return float(np.nan_to_num(((expected - found).abs() / scale).max().item(), nan=np.inf))


@torch.no_grad()
def _difference_of_suppression(model: Suppressed, content: bytes, shape: tuple[int, int, int]) -> float:
    """Return the largest difference of the boxes, scores and detections of an ONNX file from those of `model`.

    `model` suppresses the boxes of the file: with its own, which differ by rounding, a score near the threshold or
    two almost equal ones would lead to other detections. Where fewer than `MIN_COMPARED` rows are above the threshold,
    as of a trained model on noise, the file is also compared with a lower one, so that there are boxes to suppress.
    """
    images, side = _noise(shape), max(shape[1:])
    boxes, scores = model.candidates(images)
    found, file_boxes, file_scores = _onnx_outputs(_with_candidates(content))(images)
    file_scores = file_scores.transpose(1, 2)  # of the best class, else 0
    differences = [
        (boxes - file_boxes).abs().max().item() / side,
        (scores.amax(dim=2) - file_scores.amax(dim=2)).abs().max().item(),
        torch.where(file_scores > 0, scores - file_scores, 0).abs().max().item(),
    ]
    scale = torch.tensor([side, side, side, side, 1, 1])
    differences += map(difference_of_detections, model.detections(file_boxes, file_scores) / scale, found / scale)
    best = file_scores.amax(dim=2).flatten().sort(descending=True).values
    lower = best[:MIN_COMPARED][-1].item()
    if lower < model.settings.conf_threshold:
        (found, *_) = _onnx_outputs(_with_candidates(content, lower))(images)
        lowered = Suppressed(model.decode, replace(model.settings, conf_threshold=lower))
        expected = lowered.detections(file_boxes, file_scores)
        differences += map(difference_of_detections, expected / scale, found / scale)
    return float(torch.tensor(differences).nan_to_num(nan=np.inf).max())


def _with_candidates(content: bytes, threshold: float | None = None) -> bytes:
    """Return the ONNX file with the boxes and scores before the suppression as outputs, and with `threshold`."""
    import onnx

    file = onnx.load_from_string(content)
    (node,) = (node for node in file.graph.node if node.op_type == "NonMaxSuppression")
    file.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.input[:2])
    if threshold is not None:
        node.input[4] = "lower_threshold"
        file.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array([threshold], dtype=np.float32), node.input[4])
        )
    changed: bytes = file.SerializeToString()
    return changed


def _noise(shape: tuple[int, int, int]) -> torch.Tensor:
    """Return images of `shape`, batch, height and width, with random pixels."""
    batch, height, width = shape
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def difference_of_detections(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Return the largest distance of a detection from the nearest one of the other rows, either way.

    Equal scores may be in another order, and of several with the least score, others may have found room.
    """
    least = expected[-1, 4]  # 0 unless every row is a detection
    first, second = expected[expected[:, 4] > least], found[found[:, 4] > least]
    if len(first) != len(second):
        return np.inf
    distances = [
        (row - others).abs().amax(dim=1).min() for rows, others in ((first, second), (second, first)) for row in rows
    ]
    return torch.stack(distances).max().item() if distances else (expected - found).abs().max().item()
