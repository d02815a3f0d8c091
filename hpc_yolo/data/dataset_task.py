"""Keys of a dataset YAML for other tasks than detection, and the part of their labels that is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpc_yolo.core.errors import DataError

KPT_HINT = "such as kpt_shape: [17, 3]: 17 keypoints of x, y and visibility"
KEYPOINT_KEYS = ("flip_idx", "kpt_names", "keypoints", "skeleton")


def read_kpt_shape(source: Path, content: dict[str, Any]) -> tuple[int, int] | None:
    """Return (keypoints, numbers of each) of the lines of label files, None where they have none.

    Raises:
        DataError: `kpt_shape` is not such a pair, or it is missing although another key is for keypoints.
    """
    written = content.get("kpt_shape")
    if written is None:
        keys = [f"{key}:" for key in KEYPOINT_KEYS if key in content]
        if content.get("task") == "pose":
            keys.append("task: pose")
        if keys:
            raise DataError(
                f"{source}: {keys[0]} is for labels with keypoints, and kpt_shape: is missing; without it their lines "
                "would be read as polygons",
                hint=KPT_HINT,
            )
        return None
    if not (isinstance(written, list) and len(written) == 2 and all(str(part).isdecimal() for part in written)):
        raise DataError(f"{source}: kpt_shape: {written!r} is not a pair of numbers", hint=KPT_HINT)
    num_points, num_numbers = map(int, written)
    if num_points < 1 or num_numbers not in (2, 3):
        raise DataError(f"{source}: kpt_shape: {[num_points, num_numbers]}: 2 or 3 numbers each", hint=KPT_HINT)
    return num_points, num_numbers


def task_messages(source: Path, content: dict[str, Any]) -> tuple[str, ...]:
    """Return messages on the part of the labels that is used, if they are for another task than detection.

    Raises:
        DataError: they have no boxes.
    """
    task = content.get("task")
    if task in ("classify", "classification"):
        raise DataError(f"{source}: task: {task}: labels without boxes; a detector cannot learn from them")
    if task == "obb":
        return (f"{source}: task: obb: the upright box around each oriented box is learnt; angles are not",)
    if "kpt_shape" in content:
        return (f"{source}: kpt_shape: the class and box of each line are learnt; keypoints are not",)
    return ()
