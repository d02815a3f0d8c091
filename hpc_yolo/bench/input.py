"""How fast the loader of a spec makes training images on one core of this machine, from files and from memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count, islice

import numpy as np

from hpc_yolo.bench.data import memory_cache
from hpc_yolo.bench.machine import cpu_model
from hpc_yolo.bench.rounds import cpu_s
from hpc_yolo.bench.threads import one_thread
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.dataset_source import source_of
from hpc_yolo.data.decoded import plan_slots
from hpc_yolo.data.flat import FlatLabels, FlatPaths
from hpc_yolo.data.labels import ImageIndex
from hpc_yolo.data.loader import TrainingLoader
from hpc_yolo.data.polygons import Outlines
from hpc_yolo.data.scan import scan_split
from hpc_yolo.forecast.input_rate import InputRate, conditions
from hpc_yolo.spec.data import WINDOW
from hpc_yolo.spec.hyperparameters import load_hyperparameters
from hpc_yolo.spec.schema import Spec

MOST_IMAGES = 256  # of the set that are kept in memory and drawn from
BATCH, ROUNDS = 16, 5


def measure_input(spec: Spec, on_progress: Callable[[int, int], None]) -> InputRate:
    """Return the processor time of a training image of `spec`, the median of rounds of 32 images.

    Images of the whole training set are read first, up to 256, so that files are in the page cache.

    Args:
        spec: with its dataset, image size and hyperparameters.
        on_progress: called with (images scanned, all images).

    Raises:
        DataError: the dataset cannot be read.
    """
    dataset = load_dataset(source_of(spec.data))
    train, val = (scan_split(dataset, split, on_progress) for split in ("train", "val"))
    index = sample_of(train)
    with one_thread():
        return InputRate(
            data=spec.data.described,
            cpu=cpu_model(),
            files_s=_seconds_of_image(spec, index, in_memory=False),
            memory_s=_seconds_of_image(spec, index, in_memory=True),
            time=time.time(),
            decoded_bytes=sum(plan_slots(each.shapes_hw, spec.train.imgsz).total_bytes for each in (train, val)),
            **conditions(spec),
        )


def sample_of(index: ImageIndex) -> ImageIndex:
    """Return images of `index` at equal distances, at most `MOST_IMAGES`, with their boxes alone."""
    if index.num_images <= MOST_IMAGES:
        return index
    chosen = np.linspace(0, index.num_images - 1, MOST_IMAGES).astype(np.int64)
    labels = FlatLabels.of(index.labels[int(image)] for image in chosen)
    return replace(
        index,
        paths=FlatPaths.of(index.paths[int(image)] for image in chosen),
        shapes_hw=index.shapes_hw[chosen],
        labels=labels,
        outlines=Outlines.none(sum(map(len, labels))),
    )


def _seconds_of_image(spec: Spec, index: ImageIndex, *, in_memory: bool) -> float:
    batch = min(BATCH, index.num_images)
    loader = TrainingLoader(
        index,
        imgsz=spec.train.imgsz,
        batch=batch,
        hyp=load_hyperparameters(spec.train, spec.model),
        seed=spec.train.seed,
        rank=0,
        world_size=1,
        workers=0,
        cache=memory_cache(index, spec.train.imgsz) if in_memory else None,
        rect=spec.train.rect,
        window_partners=spec.data.mosaic_partners == WINDOW,
        draws=conditions(spec)["augment_device"] == "cpu",
    )
    batches = (one for epoch in count() for one in loader.epoch(epoch))
    for _ in islice(batches, -(-index.num_images // batch)):  # every image is read once
        pass
    seconds = []
    for _ in range(ROUNDS):
        started_s = cpu_s()
        for _ in islice(batches, 2):
            pass
        seconds.append((cpu_s() - started_s) / (2 * batch))
    return statistics.median(seconds)
