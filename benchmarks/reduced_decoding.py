"""Compare the mAP of a trained model from JPEGs that their decoder reduces with that from JPEGs decoded whole.

The validation images are drawn as those of `learning.py`, but larger: at three times the size of the evaluation (as
1920 x 1080 for 640 px) they are decoded at half their size, at six times at a quarter, at eight times at an eighth.

python benchmarks/reduced_decoding.py RUN DIRECTORY [--images 1000] [--ratios 3 6 8]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
from click.testing import CliRunner
from learning import HEIGHT, NAMES, WIDTH, draw_image

from hpc_yolo.cli.main import cli
from hpc_yolo.data import source

IMGSZ = 160
RATIOS = (3, 6, 8)
QUALITY = 92


def main() -> None:
    """Print mAP both ways and their differences for each size of the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run of learning.py")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--ratios", type=int, nargs="+", default=RATIOS)
    options = parser.parse_args()
    for ratio in options.ratios:
        data = draw_set(options.directory / f"ratio{ratio}", ratio * IMGSZ / WIDTH, options.images)
        reduced = evaluate(options.run, data, options.directory)
        with mock.patch.object(source, "reduction_for", return_value=1):
            whole = evaluate(options.run, data, options.directory)
        for name, one, other in zip(("mAP50", "mAP50-95"), reduced, whole, strict=True):
            print(f"ratio {ratio}: {name} {other:.4f} whole, {one:.4f} reduced: {one - other:+.4f}", flush=True)


def draw_set(directory: Path, scale: float, num_images: int) -> Path:
    """Write JPEGs, whose sides are `scale` times those of `learning.py`, with labels; return the dataset YAML."""
    random = np.random.default_rng(321)
    for kind in ("images", "labels"):
        (directory / kind / "val").mkdir(parents=True, exist_ok=True)
    for index in range(num_images):
        pixels, labels = draw_image(random)
        size_wh = round(WIDTH * scale), round(HEIGHT * scale)
        larger = cv2.resize(pixels, size_wh, interpolation=cv2.INTER_NEAREST)
        noise = random.integers(-15, 16, larger.shape)
        noisy = (larger + noise).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(directory / "images" / "val" / f"{index:04d}.jpg"), noisy, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        (directory / "labels" / "val" / f"{index:04d}.txt").write_text("".join(labels))
    path = directory / "dataset.yaml"
    path.write_text(f"val: images/val\nnames: [{', '.join(NAMES)}]\n")
    return path


def evaluate(run: Path, data: Path, directory: Path) -> tuple[float, float]:
    """Return mAP50 and mAP50-95 of the best model of a run."""
    arguments = ["val", str(run), "--data", str(data), "--imgsz", str(IMGSZ), "--workers", "0", "--json"]
    result = CliRunner().invoke(cli, [*arguments, "--device", "cpu", "--project", str(directory / "val")])
    if result.exception:
        raise result.exception
    metrics = json.loads(result.stdout)["metrics"]
    return metrics["map50"], metrics["map50_95"]


if __name__ == "__main__":
    main()
