"""COCO's JSON, its official metrics, and their difference to the computed mean average precision."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import GOLDEN

from hpc_yolo.core.errors import HpcYoloError
from hpc_yolo.evaluation import coco
from hpc_yolo.evaluation.coco_truth import read_annotations
from hpc_yolo.evaluation.metrics import compute_metrics, in_crowd, match_detections

WIDTH, HEIGHT = 640, 480
NUM_CLASSES = 20


def test_coco_classes_have_published_ids():
    assert list(coco.keys_of_names(GOLDEN["coco80_names"], []).category_ids) == GOLDEN["coco80_to_coco91"]


def test_other_classes_have_ids_from_0():
    assert list(coco.keys_of_names(["person", "forklift"], []).category_ids) == [0, 1]


@pytest.mark.parametrize(
    ("paths", "ids"),
    [
        (["a/000000000139.jpg", "a/frame_7.png", "a/٣.jpg"], [139, "frame_7", "٣"]),
        (["cam1/a.jpg", "cam2/a.jpg", "cam2/b.jpg"], ["cam1/a.jpg", "cam2/a.jpg", "b"]),
        (["a/1.jpg", "a/001.jpg", "a/2.jpg"], ["a/1.jpg", "a/001.jpg", 2]),
        (["a/x.jpg", "a/x.png"], ["a/x.jpg", "a/x.png"]),
    ],
    ids=["names", "two cameras", "same number", "two suffixes"],
)
def test_image_ids_without_annotations_are_unique(paths, ids):
    assert list(coco.keys_of_names(["a"], paths).image_ids) == ids
    assert coco.named_alike(paths) == [path for path, image_id in zip(paths, ids, strict=True) if image_id == path]


def test_detection_is_rounded_for_coco():
    row = torch.tensor([[1.00049, 2.0, 11.5, 22.25, 0.1234567, 2]])
    keys = coco.keys_of_names(GOLDEN["coco80_names"], [])
    (found,) = coco.predictions(row, 139, keys)
    assert found == coco.Prediction(139, 3, (1.0, 2.0, 10.5, 20.25), 0.12346)


class Scenes:
    """Random images like COCO's and detections like those of a trained model.

    About seven objects per image, some next to one of their class, a few empty images, one crowd in eighty objects;
    300 detections per image, down to the lowest confidence.
    """

    def __init__(self, seed: int, num_images: int) -> None:
        self.random = np.random.default_rng(seed)
        self.objects = [self.draw_objects() for _ in range(num_images)]
        self.detections = [self.draw_detections(objects) for objects in self.objects]

    def draw_objects(self):
        """Return a list of (class, left, top, width, height, is a crowd)."""
        random, objects = self.random, []
        for _ in range(0 if random.random() < 0.06 else random.poisson(7)):
            kind = int(random.integers(NUM_CLASSES))
            width, height = np.exp(random.uniform(np.log(12), np.log(300), 2))
            left, top = random.uniform(0, WIDTH - width), random.uniform(0, HEIGHT - height)
            if objects and random.random() < 0.3:
                kind, left, top, width, height, _ = objects[-1]
                left += width * random.uniform(0.25, 1) * random.choice([-1, 1])
                left, top = np.clip(left, 0, WIDTH - 12), np.clip(top + height * random.normal(0, 0.1), 0, HEIGHT - 12)
                width, height = min(width, WIDTH - left), min(height, HEIGHT - top)
            objects.append((kind, left, top, width, height, random.random() < 1 / 80))
        return objects

    def draw_detections(self, objects):
        random, rows = self.random, []
        for kind, left, top, width, height, is_crowd in objects:
            for number in range(random.integers(3, 12) if is_crowd else random.integers(0, 4)):
                if is_crowd:
                    fraction_w, fraction_h = random.uniform(0.15, 0.5), random.uniform(0.3, 1)
                    box = [
                        left + width * random.uniform(0, 1 - fraction_w),
                        top + height * random.uniform(0, 1 - fraction_h),
                    ]
                    box, score = [*box, width * fraction_w, height * fraction_h], random.beta(2, 2)
                else:
                    shift = random.exponential(0.06 * (1 + 2 * number))
                    moved, grown = random.normal(0, shift, 2), np.exp(random.normal(0, shift, 2))
                    box = [left + moved[0] * width, top + moved[1] * height, width * grown[0], height * grown[1]]
                    score = random.beta(3, 2) * np.exp(-3 * shift) * (0.3 if number else 1)
                rows.append([*box, score, kind if random.random() < 0.93 else random.integers(NUM_CLASSES)])
        for _ in range(300):
            size = np.exp(random.uniform(np.log(12), np.log(300), 2))
            corner = random.uniform(0, 1, 2) * ((WIDTH, HEIGHT) - size)
            rows.append([*corner, *size, 0.001 + random.beta(0.5, 40) * 0.6, random.integers(NUM_CLASSES)])
        found = torch.tensor(np.array(rows, dtype=np.float32))
        found[:, 2:4] += found[:, :2]
        found[:, :4] = torch.minimum(found[:, :4].clamp(min=0), torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]))
        return found[found[:, 4].argsort(descending=True, stable=True)][:300]

    def annotations(self):
        everything = [(image, *one) for image, objects in enumerate(self.objects) for one in objects]
        return {
            "images": [{"id": image + 1000, "file_name": f"{image}.jpg"} for image in range(len(self.objects))],
            "categories": [{"id": 2 * kind + 1, "name": f"kind {kind}"} for kind in range(NUM_CLASSES)],
            "annotations": [
                {
                    "id": number + 1,
                    "image_id": image + 1000,
                    "category_id": 2 * kind + 1,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": int(is_crowd),
                }
                for number, (image, kind, left, top, width, height, is_crowd) in enumerate(everything)
            ],
        }


def official_and_computed(scenes: Scenes, directory: Path):
    truth, found = directory / "annotations.json", directory / "predictions.json"
    truth.write_text(json.dumps(scenes.annotations()))
    paths = [f"images/{image}.jpg" for image in range(len(scenes.objects))]
    annotations = read_annotations(truth, [f"kind {kind}" for kind in range(NUM_CLASSES)], paths)
    images = annotations.keys.image_ids
    with found.open("wb") as file:
        writer = coco.PredictionsWriter(file)
        for image, detections in zip(images, scenes.detections, strict=True):
            writer.add(coco.predictions(detections, image, annotations.keys))
        writer.close()
    columns = [], [], [], [], []
    for image, objects, detections in zip(images, scenes.objects, scenes.detections, strict=True):
        labels = torch.tensor([[k, x, y, x + w, y + h] for k, x, y, w, h, crowd in objects if not crowd]).reshape(-1, 5)
        correct = match_detections(detections, labels.float())
        ignored = in_crowd(detections, annotations.crowds.get(image, torch.zeros(0, 5))) & ~correct
        arrays = correct, detections[:, 4], detections[:, 5].long(), labels[:, 0].long(), ignored
        for column, array in zip(columns, arrays, strict=True):
            column.append(np.asarray(array))
    official = coco.official_numbers(annotations.dataset, found, annotations.known, annotations.keys.category_ids)
    return official, compute_metrics(*map(np.concatenate, columns))


def test_computed_map_is_close_to_official_map(tmp_path):
    scenes = Scenes(seed=0, num_images=250)
    assert sum(not objects for objects in scenes.objects) > 5
    assert sum(one[-1] for objects in scenes.objects for one in objects) > 10
    official, own = official_and_computed(scenes, tmp_path)
    assert 0.3 < official.ap < 0.7
    assert own.mean.map50_95 == pytest.approx(official.ap, abs=0.002)


def test_detections_in_crowds_lower_map_unless_ignored():
    """Shows that crowds matter in the test above."""
    detections = torch.tensor([[10.0, 10, 50, 50, 0.9, 0], [60.0, 10, 100, 50, 0.8, 0]])
    crowd = torch.tensor([[0.0, 0, 0, 55, 60]])
    labels = torch.tensor([[0.0, 60, 10, 100, 50]])
    correct = match_detections(detections, labels)
    ignored = in_crowd(detections, crowd) & ~correct
    assert ignored.tolist() == [[True] * 10, [False] * 10]
    arrays = correct, np.array([0.9, 0.8]), np.zeros(2, np.int64), np.zeros(1, np.int64)
    assert compute_metrics(*arrays, ignored).mean.map50 > 0.99
    assert compute_metrics(*arrays).mean.map50 < 0.6


def test_crowd_of_another_class_is_not_ignored():
    detections = torch.tensor([[10.0, 10, 50, 50, 0.9, 1]])
    assert not in_crowd(detections, torch.tensor([[0.0, 0, 0, 100, 100]])).any()


def test_no_detections_give_official_metrics_of_zero(tmp_path):
    scenes = Scenes(seed=1, num_images=5)
    scenes.detections = [torch.zeros(0, 6)] * 5
    official, own = official_and_computed(scenes, tmp_path)
    assert (official.ap, official.ar100, own.mean.map50_95) == (0, 0, 0)


def test_missing_pycocotools_error_has_install_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(HpcYoloError, match="pip install 'hpc-yolo\\[coco\\]'"):
        coco.official_numbers({}, tmp_path / "p.json", [1], [1])


def test_pycocotools_failure_is_reported_as_error(tmp_path):
    (tmp_path / "p.json").write_text("[]")
    with pytest.raises(HpcYoloError, match="pycocotools cannot evaluate the predictions: KeyError: 'id'"):
        coco.official_numbers({"images": [{}], "annotations": [], "categories": []}, tmp_path / "p.json", [1], [1])
