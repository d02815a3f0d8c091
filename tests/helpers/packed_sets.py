"""A small dataset with everything that a packed set must keep, and packing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from image_sets import add, encoded

from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.pack.build import PackResult, pack_dataset
from hpc_yolo.data.pack.layout import Options
from hpc_yolo.data.scan import scan_split

SMALL_SHARDS = Options(shard_bytes=20_000)
POLYGON = "1 0.2 0.2 0.8 0.3 0.4 0.9\n0 0.5 0.5 0.5 0.5\n"


def write_source(root: Path) -> Path:
    """Write a dataset of three splits into `root`, with polygons, a background, a damaged image; return its YAML."""
    for split in ("train", "val", "test"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(9):
        shape = (40 + number, 60 - number, 3)
        noise = random.integers(0, 256, size=shape, dtype=np.uint8)
        suffix = (".jpg", ".png", ".JPEG")[number % 3]
        add(root, f"image {number}{suffix}", encoded(suffix, noise), POLYGON if number % 2 else "0 0.5 0.5 0.4 0.4\n")
    add(root, "background.jpg", label=None)
    add(root, "damaged.jpg", b"\xff\xd8\xff nothing")
    for split, name in (("val", "ä.png"), ("test", "last.jpg")):
        (root / "images" / split / name).write_bytes(encoded(Path(name).suffix, noise))
        (root / "labels" / split / name).with_suffix(".txt").write_text("1 0.5 0.5 0.2 0.2\n")
    (root / "d.yaml").write_text("train: images/train\nval: images/val\ntest: images/test\nnames: [cat, dog]\n")
    return root / "d.yaml"


def pack(data: Path, directory: Path, options: Options = SMALL_SHARDS, **callbacks: Any) -> PackResult:
    """Pack all splits of the dataset YAML `data`."""
    dataset = load_dataset(data)
    indexes = {
        split: scan_split(dataset, split, needs_labels=False)
        for split in ("train", "val", "test")
        if dataset.split(split)
    }
    return pack_dataset(dataset, indexes, directory, options, **callbacks)
