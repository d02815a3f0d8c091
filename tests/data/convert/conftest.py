"""A dataset with boxes and polygons for conversions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from image_sets import encoded

CLASSES = ("cat", "dog")


def line(random: np.random.Generator) -> str:
    """Return a box or a polygon inside of the image, in fractions of six digits."""
    left, top = random.uniform(0, 0.6, 2)
    width, height = random.uniform(0.1, 0.35, 2)
    if random.random() < 0.5:
        numbers = [left + width / 2, top + height / 2, width, height]
    else:
        numbers = [left, top, left + width, top + 0.1 * height, left + 0.3 * width, top + height]
    return f"{random.integers(len(CLASSES))} " + " ".join(f"{number:.6f}" for number in numbers)


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """A dataset YAML of two splits; three images of different sizes in each, of which the last is background."""
    random = np.random.default_rng(0)
    root = tmp_path / "yolo"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number, (height, width) in enumerate([(40, 60), (50, 30), (44, 44)], 1):
            pixels = random.integers(0, 256, size=(height, width, 3), dtype=np.uint8)
            (root / "images" / split / f"{split}{number}.jpg").write_bytes(encoded(".jpg", pixels))
            lines = [line(random) for _ in range(4)] if number < 3 else []
            (root / "labels" / split / f"{split}{number}.txt").write_text("".join(f"{one}\n" for one in lines))
    (root / "d.yaml").write_text(f"train: images/train\nval: images/val\nnames: {list(CLASSES)}\n")
    return root / "d.yaml"
