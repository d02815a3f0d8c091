"""Write files in YOLOv5's format by torch: stand-ins for its classes, filled with our tensors."""

import contextlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml
from torch import nn

from hpc_yolo.models import build_model
from hpc_yolo.spec.model_config import model_path

BLOCKS = {"Conv": "Conv", "C3": "C3", "Bottleneck": "Bottleneck", "SPPF": "SPPF", "Concat": "Concat"}


@contextlib.contextmanager
def project_classes(project: str, model_class: str) -> Iterator[tuple[ModuleType, ModuleType]]:
    """Define modules named as the project's, with classes whose objects hold only what is assigned to them."""
    yolo, common = ModuleType(f"{project}.yolo"), ModuleType(f"{project}.common")
    for module, names in ((yolo, (model_class, "Detect", "SegmentationModel")), (common, (*BLOCKS, "Focus"))):
        for name in names:
            setattr(module, name, type(name, (nn.Module,), {"__module__": module.__name__}))
    packages = {name: ModuleType(name) for name in (project, project.partition(".")[0])}
    before = dict(sys.modules)
    sys.modules |= packages | {yolo.__name__: yolo, common.__name__: common}
    try:
        yield yolo, common
    finally:
        for name in (*packages, yolo.__name__, common.__name__):
            del sys.modules[name]
        sys.modules |= {name: module for name, module in before.items() if name not in sys.modules}


def official_architecture(model: str, num_classes: int) -> dict[str, Any]:
    """Return the layers of our model in the spelling of YOLOv5's files."""
    config: dict[str, Any] = yaml.safe_load(model_path(model).read_text())
    spelled = {
        "Upsample": ("nn.Upsample", [None, 2, "nearest"]),
        "Concat": ("Concat", [1]),
        "Detect": ("Detect", ["nc", "anchors"]),
    }
    rows = {
        part: [
            [source, repeats, *spelled.get(kind, (kind, arguments))]
            for source, repeats, kind, arguments in config[part]
        ]
        for part in ("backbone", "head")
    }
    return config | rows | {"nc": num_classes, "ch": 3}


def as_project_module(module: nn.Module, common: ModuleType, yolo: ModuleType) -> nn.Module:
    """Return `module` with the project's classes in place of ours; torch's own stay."""
    kind = type(module).__name__
    if kind in BLOCKS or kind == "Detect":
        copied: nn.Module = (yolo if kind == "Detect" else common).__dict__[kind]()
        copied._parameters, copied._buffers = module._parameters, OrderedDict(module._buffers)
        copied._buffers.pop("strides", None)  # not a buffer there
        copied.training = False
    elif kind == "Upsample":
        copied = nn.Upsample(scale_factor=2, mode="nearest")
    else:
        copied = module
    for name, child in module.named_children():
        copied._modules[name] = as_project_module(child, common, yolo)
    return copied


def write_published(
    path: Path,
    *,
    model: str = "yolov5n",
    names: Any = None,
    model_class: str = "DetectionModel",
    project: str = "models",
    as_ema: bool = False,
    half: bool = True,
    change: Callable[[dict[str, Any], ModuleType, ModuleType], object] = lambda content, yolo, common: None,
) -> dict[str, torch.Tensor]:
    """Write a file with a random model; return its tensors. `change` may modify the pickled dictionary first."""
    names = ["a", "b", "c"] if names is None else names
    torch.manual_seed(0)
    detector = build_model(model, len(names))
    with torch.no_grad():
        for tensor in detector.state_dict().values():
            if tensor.is_floating_point():
                tensor += torch.rand_like(tensor) / 8
    if half:
        detector.half()
    tensors = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    with project_classes(project, model_class) as (yolo, common):
        pickled = yolo.__dict__[model_class]()
        pickled._modules["model"] = as_project_module(detector.model, common, yolo)
        pickled.names = names
        pickled.yaml = official_architecture(model, len(names))
        pickled.stride = torch.tensor([8.0, 16.0, 32.0])
        content = {"epoch": -1, "best_fitness": None, "model": pickled, "ema": None, "opt": {"imgsz": 320}, "git": {}}
        if as_ema:
            content |= {"ema": pickled, "model": yolo.__dict__[model_class]()}
        change(content, yolo, common)
        torch.save(content, path)
    return tensors
