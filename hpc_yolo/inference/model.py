"""A model ready for val and predict, from weights or from an exported file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from hpc_yolo.core.errors import SpecError
from hpc_yolo.evaluation.evaluator import EvaluationSettings
from hpc_yolo.inference.device import choose_device
from hpc_yolo.inference.exported import ExportedModel, load_exported
from hpc_yolo.inference.predict import PredictSettings
from hpc_yolo.models import Detector
from hpc_yolo.models.fuse import fused
from hpc_yolo.weights.archive import EXPORTED_SUFFIXES
from hpc_yolo.weights.model_file import build_detector, read_model_file
from hpc_yolo.weights.torchscript import is_torchscript

Settings = TypeVar("Settings", EvaluationSettings, PredictSettings)

DEFAULT_IMGSZ = 640  # pixels, for a model whose file has no size


@dataclass(frozen=True)
class InferenceModel:
    """A model in evaluation mode on its device, and the metadata of its file.

    Attributes:
        imgsz: image size in training, in pixels, if the file has it.
        fixed_hw: the only sides that it accepts; None if it accepts all multiples of the stride.
    """

    path: Path
    model: Detector | ExportedModel
    names: tuple[str, ...]
    device: torch.device
    imgsz: int | None = None
    fixed_hw: tuple[int, int] | None = None

    @property
    def stride(self) -> int:
        """Number of pixels of which sides of images are multiples."""
        return self.model.image_stride

    def require_size(self, sides: tuple[int, int] | None) -> None:
        """Refuse `sides`, the requested height and width, if an exported file does not accept them.

        Raises:
            SpecError: naming both sizes.
        """
        if self.fixed_hw is not None and sides not in (None, self.fixed_hw):
            assert sides is not None
            requested, accepted = (f"{height} x {width}" for height, width in (sides, self.fixed_hw))
            raise SpecError(
                f"--imgsz: {requested} px, and {self.path} was exported for {accepted} px (height x width) only",
                hint="leave --imgsz out, or export it again with --dynamic",
            )

    def applied_settings(self, settings: Settings, on_message: Callable[[str], None]) -> Settings:
        """Return `settings` as they take effect: those of a suppression inside the file where these are stricter.

        Args:
            on_message: called with a message if a threshold differs.
        """
        inside = self.model.about.suppression if isinstance(self.model, ExportedModel) else None
        if inside is None:
            return settings
        applied = replace(
            settings,
            conf_threshold=max(settings.conf_threshold, inside.conf_threshold),
            iou_threshold=min(settings.iou_threshold, inside.iou_threshold),
            max_detections=min(settings.max_detections, inside.max_detections),
        )
        if (applied.conf_threshold, applied.iou_threshold) != (settings.conf_threshold, settings.iou_threshold):
            on_message(
                f"{self.path}: has a suppression inside, so that the settings are confidence "
                f"{applied.conf_threshold:g}, IoU {applied.iou_threshold:g}, {applied.max_detections} detections"
            )
        return applied


def load_inference_model(path: Path, *, device: str, half: bool, augment: bool) -> InferenceModel:
    """Load the model in `path`, fused for inference.

    Raises:
        CheckpointError: the file cannot be used.
        SpecError: the device, or an exported file, does not support an option.
    """
    chosen = choose_device(device)
    if half and chosen.type != "cuda":
        raise SpecError("--half: half precision is for GPUs; CPUs would only be slower", hint="leave --half out")
    if path.suffix.lower() in EXPORTED_SUFFIXES or is_torchscript(path):
        return _exported(path, device, half=half, augment=augment)
    file = read_model_file(path)
    model = fused(build_detector(file)).to(chosen, torch.float16 if half else torch.float32)
    model = model.to(memory_format=torch.channels_last)
    return InferenceModel(path, model.eval(), file.names, chosen, file.imgsz)


def _exported(path: Path, device: str, *, half: bool, augment: bool) -> InferenceModel:
    for name, is_requested, why in (
        ("--half", half, "it computes in fp32"),
        ("--augment", augment, "it has no raw outputs, which are needed to join the views"),
        ("--device", device.strip().lower() not in ("", "auto", "cpu"), "exported files run on the CPU"),
    ):
        if is_requested:
            raise SpecError(f"{name}: not supported for {path}: {why}", hint="name the file that it was exported from")
    model = load_exported(path)
    about = model.about
    return InferenceModel(path, model, about.names, torch.device("cpu"), about.imgsz, about.image_hw)
