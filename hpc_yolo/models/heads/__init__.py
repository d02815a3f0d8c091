"""Detection heads, each with its loss: one entry of `HEADS` under the name that a model's YAML uses."""

from hpc_yolo.models.heads.anchor_free import AnchorFree
from hpc_yolo.models.heads.base import Head
from hpc_yolo.models.heads.yolov5 import Detect

HEADS: dict[str, type[Head]] = {"Detect": Detect, "AnchorFree": AnchorFree}
