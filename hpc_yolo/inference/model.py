"""A model made ready for val and predict, from weights or from an exported file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from hpc_yolo.core.errors import SpecError
from hpc_yolo.inference.device import choose_device
from hpc_yolo.inference.exported import ExportedModel, load_exported
from hpc_yolo.models import Detector
from hpc_yolo.models.fuse import fused
from hpc_yolo.weights.archive import EXPORTED_SUFFIXES
from hpc_yolo.weights.model_file import build_detector, read_model_file
from hpc_yolo.weights.torchscript import is_torchscript


@dataclass(frozen=True)
class InferenceModel:
    """A model in evaluation mode on its device, and what its file says of it.

    Attributes:
        imgsz: pixels that it was trained at, where the file says so.
        fixed_hw: the only sides that it takes; None where it takes all multiples of the stride.
    """

    path: Path
    model: Detector | ExportedModel
    names: tuple[str, ...]
    device: torch.device
    imgsz: int | None = None
    fixed_hw: tuple[int, int] | None = None

    @property
    def stride(self) -> int:
        """The number of pixels that sides of images are multiples of."""
        return self.model.image_stride

    def require_size(self, sides: tuple[int, int] | None) -> None:
        """Refuse sides that an exported file does not take. `sides`: height and width that a person asked for.

        Raises:
            SpecError: naming both.
        """
        if self.fixed_hw is not None and sides not in (None, self.fixed_hw):
            assert sides is not None
            asked, taken = (f"{height} x {width}" for height, width in (sides, self.fixed_hw))
            raise SpecError(
                f"--imgsz: {asked} px, and {self.path} was exported for {taken} px (height x width) alone",
                hint="leave --imgsz out, or export it again with --dynamic",
            )


def load_inference_model(path: Path, *, device: str, half: bool, augment: bool) -> InferenceModel:
    """Read the model in `path`, folded for inference.

    Raises:
        CheckpointError: the file cannot be used.
        SpecError: the device, or an exported file, cannot do what is asked.
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
    for name, is_asked, why in (
        ("--half", half, "it computes in fp32"),
        ("--augment", augment, "it gives no raw levels, which the views are joined by"),
        ("--device", device.strip().lower() not in ("", "auto", "cpu"), "exported files are computed on the CPU here"),
    ):
        if is_asked:
            raise SpecError(f"{name}: not supported for {path}: {why}", hint="name the file that it was exported from")
    model = load_exported(path)
    about = model.about
    return InferenceModel(path, model, about.names, torch.device("cpu"), about.imgsz, about.image_hw)
