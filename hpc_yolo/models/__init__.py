"""The YOLOv5 family: models built from configs (`family`), their blocks (`layers`), heads and losses."""

from hpc_yolo.models.family import Detector, build_from_config, build_model, freeze, tensor_shapes
from hpc_yolo.spec.model_config import load_config

__all__ = ["Detector", "build_from_config", "build_model", "freeze", "load_config", "tensor_shapes"]
