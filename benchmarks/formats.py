"""Measure how COCO's JSON is read: a file of the size of instances_train2017.json (450 MB), without its images.

    python benchmarks/formats.py [--objects 860001]

Prints CPU seconds (user and system) of the names, of the images (all that a cached scan needs), of the whole file and
of the labels of all images, and the peak of memory. Then images a second that `data convert` writes to each format.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from hpc_yolo.data.coco_json import CocoImages, coco_names_in, read_coco
from hpc_yolo.data.convert.convert import convert
from hpc_yolo.data.convert.source import find_dataset
from hpc_yolo.data.formats.coco_objects import CocoObjects
from hpc_yolo.data.formats.split import annotations_of

NUM_IMAGES, NUM_OBJECTS, NUM_CLASSES, NUM_POINTS = 118_287, 860_001, 80, 26
NUM_CONVERTED = 2_000
ADDRESS = "http://images.cocodataset.org/train2017"


def write_annotations(path: Path, num_images: int, num_objects: int) -> None:
    """Write a file with polygons, in the form of COCO's own."""
    draw = random.Random(0)
    with path.open("w") as file:
        images = (
            f'{{"license": 3,"file_name": "{number:012d}.jpg","coco_url": "{ADDRESS}/{number:012d}.jpg",'
            f'"height": 480,"width": 640,"date_captured": "2013-11-14 11:18:45","id": {number}}}'
            for number in range(1, num_images + 1)
        )
        file.write(f'{{"info": {{}},"images": [{",".join(images)}],"annotations": [')
        for number in range(num_objects):
            left, top = draw.random() * 500, draw.random() * 400
            points = ",".join(
                f"{left + draw.random() * 100:.2f},{top + draw.random() * 70:.2f}" for _ in range(NUM_POINTS)
            )
            file.write(
                f'{"," if number else ""}{{"segmentation": [[{points}]],"area": 702.1,"iscrowd": 0,'
                f'"image_id": {draw.randrange(num_images) + 1},"bbox": [{left:.2f},{top:.2f},100.0,70.0],'
                f'"category_id": {draw.randint(1, NUM_CLASSES)},"id": {number + 1}}}'
            )
        categories = (f'{{"supercategory": "x","id": {number},"name": "c{number}"}}' for number in range(1, 81))
        file.write(f'],"categories": [{",".join(categories)}]}}')


def measured(what: str, work: Callable[[], object]) -> None:
    """Print the CPU seconds of `work`."""
    started_s = time.process_time()
    work()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what}: {time.process_time() - started_s:.2f} s of CPU, peak {peak_mb:.0f} MB", flush=True)


def measure_reading(path: Path) -> None:
    """Measure the parts of reading `path`."""
    names = [f"c{number}" for number in range(1, NUM_CLASSES + 1)]
    measured("names of the classes", lambda: coco_names_in([path]))
    measured("images, which a cached scan needs", lambda: read_coco(path, CocoImages))
    objects: list[CocoObjects] = []
    measured("the whole file", lambda: objects.append(CocoObjects(path, names)))
    images = range(1, NUM_IMAGES + 1)
    measured(
        "labels of all images", lambda: [annotations_of(objects[0].of(number, 640, 480)) for number in images] and 0
    )


def measure_conversion(directory: Path) -> None:
    """Measure conversions of a set of small images with seven polygons each, its images linked or left in place."""
    (directory / "images").mkdir()
    content = cv2.imencode(".jpg", np.full((480, 640, 3), 90, dtype=np.uint8))[1].tobytes()
    for number in range(1, NUM_CONVERTED + 1):
        (directory / "images" / f"{number:012d}.jpg").write_bytes(content)
    write_annotations(directory / "a.json", NUM_CONVERTED, 7 * NUM_CONVERTED)
    source = find_dataset(directory / "a.json")
    for kind in ("yolo", "coco", "voc"):
        started_s = time.process_time()
        convert(source, directory / kind, kind)
        print(f"to {kind}: {NUM_CONVERTED / (time.process_time() - started_s):.0f} images a second of CPU", flush=True)


def main() -> None:
    """Write the files into a temporary directory and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=NUM_OBJECTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "instances_train2017.json"
        write_annotations(path, NUM_IMAGES, arguments.objects)
        print(f"{path.stat().st_size / 1e6:.0f} MB, {NUM_IMAGES} images, {arguments.objects} objects")
        measure_reading(path)
    with tempfile.TemporaryDirectory() as name:
        measure_conversion(Path(name))


if __name__ == "__main__":
    main()
