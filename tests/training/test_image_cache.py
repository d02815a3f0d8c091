"""The cache of decoded images of a node: when there is one, and that all its ranks have the same."""

import dataclasses
import os
import threading

import numpy as np
import pytest
import torch

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.data.dataset import load_dataset
from hpc_yolo.data.decoded import plan_slots
from hpc_yolo.data.scan import scan_split
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.distributed import World
from hpc_yolo.runs.event_lines import event_line
from hpc_yolo.runs.events import AnyEvent, ImagesCached, WarningRaised
from hpc_yolo.training import image_cache
from hpc_yolo.training.image_cache import node_caches

IMGSZ = 64


@dataclasses.dataclass(frozen=True)
class RankOfThreads(World):
    """A rank of several that are threads of this process."""

    meeting: threading.Barrier = dataclasses.field(default_factory=lambda: threading.Barrier(1))
    rows: dict = dataclasses.field(default_factory=dict)

    def gather_numbers(self, numbers):
        self.rows[self.rank] = list(numbers)
        self.meeting.wait()
        everyone = [self.rows[rank] for rank in range(self.size)]
        self.meeting.wait()
        return everyone


def ranks_of(nodes: int, local_world_size: int) -> list[World]:
    size = nodes * local_world_size
    meeting, rows = threading.Barrier(size), {}
    return [
        RankOfThreads(
            ProcessInfo(
                rank, rank % local_world_size, rank // local_world_size, size, local_world_size, nodes, "h", None, "x"
            ),
            torch.device("cpu"),
            (),
            meeting=meeting,
            rows=rows,
        )
        for rank in range(size)
    ]


def caches_of(worlds, cache, indexes, emitted):
    """Return the caches of each rank."""
    found = {}

    def work(world):
        found[world.rank] = node_caches(
            cache, indexes, IMGSZ, world, emitted.append if world.is_main else lambda _: None
        )

    threads = [threading.Thread(target=work, args=(world,)) for world in worlds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(len(worlds))]


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    """Ten training and seven validation images of 96 x 64 pixels."""
    path = write_shapes_dataset(tmp_path_factory.mktemp("data") / "s", num_train=10, num_val=7, image_size=(96, 64))
    return scan_split(load_dataset(path), "train"), scan_split(load_dataset(path), "val")


@pytest.fixture
def free(monkeypatch):
    """Set the free memory to a multiple of what the images need."""

    def set_free(indexes, times):
        needed = sum(plan_slots(index.shapes_hw, IMGSZ).total_bytes for index in indexes)
        monkeypatch.setattr(image_cache, "available_bytes", lambda: int(needed * times))

    return set_free


@pytest.mark.parametrize(
    ("cache", "times", "slots", "line"),
    [
        ("ram", 1.3, [10, 7], "cache: 142 KiB of decoded images in memory, of 184 KiB that were free"),
        ("ram", 1.2, [10, 6], "cache: 134 KiB of 142 KiB of decoded images in memory, of 170 KiB that were free"),
        ("ram", 0.2, [2, 0], "cache: 20 KiB of 142 KiB of decoded images in memory, of 28 KiB that were free"),
        ("ram", 0, [0, 0], "cache: off: 142 KiB are needed, and 0 B are free"),
        ("auto", 4.1, [10, 7], "cache: 142 KiB of decoded images in memory, of 582 KiB that were free"),
        ("auto", 3.9, [0, 0], "cache: off: 142 KiB are needed, and 553 KiB are free"),
        ("none", 1000, [0, 0], None),
    ],
)
def test_cache_holds_what_fits_and_says_so(indexes, free, cache, times, slots, line):
    free(indexes, times)
    emitted: list[AnyEvent] = []
    (found,) = caches_of(ranks_of(1, 1), cache, indexes, emitted)
    assert [each.plan.num_slots if each else 0 for each in found] == slots
    assert [event_line(event) for event in emitted] == ([] if line is None else [line])


@pytest.mark.parametrize(("is_local", "kept"), [(True, 17), (False, 0)])
def test_cache_on_disk_is_kept_for_the_next_attempt(indexes, tmp_path, monkeypatch, is_local, kept):
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path))
    monkeypatch.setattr("hpc_yolo.data.cache_files.is_local", lambda _: is_local)
    monkeypatch.setattr("hpc_yolo.data.cache_files.is_in_memory", lambda _: False)
    emitted: list[AnyEvent] = []
    for of_rank in caches_of(ranks_of(1, 2), "disk", indexes, emitted):
        for cache in filter(None, of_rank):
            for image, (height, width) in enumerate(cache.plan.shapes_hw):
                cache.put(image, np.zeros((height, width, 3), dtype=np.uint8))
    again = caches_of(ranks_of(1, 2), "disk", indexes, emitted)
    assert [sum(cache.num_written for cache in filter(None, of_rank)) for of_rank in again] == [kept, kept]
    line = event_line(emitted[-1])
    assert line.startswith(
        "cache: 142 KiB of decoded images on the local disk, of " if is_local else "cache: off: 142 KiB"
    )
    assert any(isinstance(event, WarningRaised) for event in emitted) is not is_local


def test_ranks_of_a_node_share_one_cache(indexes, free):
    free(indexes, 100)
    emitted: list[AnyEvent] = []
    found = caches_of(ranks_of(2, 2), "ram", indexes, emitted)
    inodes = [[os.fstat(cache.descriptor).st_ino for cache in of_rank] for of_rank in found]
    assert inodes[0] == inodes[1] != inodes[2] == inodes[3]
    pixels = np.full((*found[1][0].plan.shapes_hw[4], 3), 9, dtype=np.uint8)
    found[1][0].put(4, pixels)
    assert np.array_equal(found[0][0].get(4), pixels)
    assert found[2][0].get(4) is None and found[0][1].get(4) is None
    assert [type(event) for event in emitted] == [ImagesCached]


def test_rank_that_cannot_open_the_cache_reads_files_and_warns(indexes, free, monkeypatch):
    free(indexes, 100)

    def refuse(*_):
        raise PermissionError(13, "no")

    monkeypatch.setattr(image_cache, "opened_cache", refuse)
    emitted: list[AnyEvent] = []
    first, second = caches_of(ranks_of(1, 2), "ram", indexes, emitted)
    assert all(first) and second == [None, None]
    (warning,) = [event.message for event in emitted if isinstance(event, WarningRaised)]
    assert warning == "train.cache: 1 rank of 2 cannot open the cache of decoded images (Permission denied)"
