"""What is converted, as pycocotools, globox and supervision read it: libraries that know the formats by themselves."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from hpc_yolo.data.convert.convert import convert
from hpc_yolo.data.convert.source import find_dataset
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.scan import scan_split

Rows = dict[str, list[list[float]]]  # by name of the image, sorted: class, left, top, right, bottom in pixels


# It takes the left and upper pixels of VOC, which count from 1, as they are.
GLOBOX = """
import json, pathlib, sys
from globox import AnnotationSet
root, classes = pathlib.Path(sys.argv[1]), {"cat": 0, "dog": 1, "0": 0, "1": 1}
sets = {
    "yolo": AnnotationSet.from_yolo_v5(root / "yolo/labels/boxes", image_folder=root / "yolo/images/train"),
    "coco": AnnotationSet.from_coco(root / "coco/annotations/instances_train.json"),
    "voc": AnnotationSet.from_pascal_voc(root / "voc/Annotations/train"),
}
def rows(one, first):
    return [[classes[b.label], b.xmin - first, b.ymin - first, b.xmax, b.ymax] for b in one.boxes]
print(json.dumps({
    kind: {pathlib.Path(one.image_id).name: rows(one, kind == "voc") for one in read} for kind, read in sets.items()
}))
"""


def expected(dataset: Path, split: str = "train") -> Rows:
    """Return the labels that a training would have."""
    index = scan_split(load_dataset(dataset), split)
    rows = {}
    for path, (height, width), labels in zip(index.paths, index.shapes_hw.tolist(), index.labels, strict=True):
        kinds, cx, cy, across, down = labels.astype(np.float64).T * [[1], [width], [height], [width], [height]]
        sides = np.stack([kinds, cx - across / 2, cy - down / 2, cx + across / 2, cy + down / 2], axis=1)
        rows[Path(path).name] = sorted(sides.tolist())
    return rows


def require_equal(found: Rows, wanted: Rows, slack_pixels: float) -> None:
    assert found.keys() == wanted.keys()
    for name, rows in wanted.items():
        assert np.array(found[name]).reshape(-1, 5) == pytest.approx(np.array(rows).reshape(-1, 5), abs=slack_pixels)


def test_pycocotools_reads_the_same_boxes_and_areas(yolo, tmp_path, capsys):
    convert(find_dataset(yolo), tmp_path / "coco", "coco")
    truth = COCO(str(tmp_path / "coco" / "annotations" / "instances_train.json"))
    found = {}
    for image_id in truth.getImgIds():
        rows = []
        for one in truth.loadAnns(truth.getAnnIds(image_id)):
            left, top, width, height = one["bbox"]
            rows.append([one["category_id"] - 1, left, top, left + width, top + height])
            if one["segmentation"]:
                assert truth.annToMask(one).sum() == pytest.approx(one["area"], rel=0.4, abs=20)
        found[truth.loadImgs(image_id)[0]["file_name"]] = sorted(rows)
    require_equal(found, expected(yolo), 1e-4)
    assert [one["name"] for one in truth.loadCats(truth.getCatIds())] == ["cat", "dog"]


def test_globox_reads_the_same_boxes(yolo, tmp_path):
    pytest.importorskip("globox")
    for kind in ("yolo", "coco", "voc"):
        convert(find_dataset(yolo), tmp_path / "to" / kind, kind)
    _boxes_alone(tmp_path / "to" / "yolo" / "labels" / "train")
    # In a process of its own, as it leaves threads behind.
    run = subprocess.run([sys.executable, "-c", GLOBOX, tmp_path / "to"], capture_output=True, text=True, check=True)
    for kind, found in json.loads(run.stdout).items():
        require_equal(
            {name: sorted(rows) for name, rows in found.items()},
            expected(tmp_path / "to" / kind / "dataset.yaml"),
            1e-4,
        )


@pytest.mark.parametrize("kind", ["yolo", "coco", "voc"])
def test_supervision_reads_the_same_boxes(yolo, tmp_path, kind):
    sets = pytest.importorskip("supervision").DetectionDataset
    convert(find_dataset(yolo), tmp_path / "to", kind, images="copy")
    root = tmp_path / "to"
    if kind == "yolo":
        read = sets.from_yolo(str(root / "images/train"), str(root / "labels/train"), str(root / "dataset.yaml"))
    elif kind == "coco":
        read = sets.from_coco(str(root / "images/train"), str(root / "annotations/instances_train.json"))
    else:
        read = sets.from_pascal_voc(str(root / "JPEGImages/train"), str(root / "Annotations/train"))
    classes = [("cat", "dog").index(name) for name in read.classes]
    found = {}
    for path, _, detections in read:
        boxes = [] if detections.class_id is None else zip(detections.class_id, detections.xyxy.tolist(), strict=True)
        found[Path(path).name] = sorted([classes[int(kind)], *sides] for kind, sides in boxes)
    # It rounds the points of polygons to whole pixels.
    require_equal(found, expected(root / "dataset.yaml"), 1.01 if kind != "voc" else 1e-4)


def _boxes_alone(labels: Path) -> None:
    """Write the directory boxes beside `labels`, with boxes in place of polygons, for a reader without polygons."""
    directory = labels.parent / "boxes"
    directory.mkdir()
    for path in labels.glob("*.txt"):
        lines = []
        for line in path.read_text().splitlines():
            kind, *numbers = map(float, line.split())
            if len(numbers) > 4:
                xs, ys = numbers[0::2], numbers[1::2]
                numbers = [(min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)]
            lines.append(" ".join([f"{kind:.0f}", *map(str, numbers)]))
        (directory / path.name).write_text("\n".join(lines))
