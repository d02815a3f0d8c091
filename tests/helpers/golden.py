"""Golden values of YOLOv5 v7.0, made by running it; docs/fidelity.md lists what they cover."""

import json
from pathlib import Path
from typing import Any

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "yolov5_golden.json").read_text())
