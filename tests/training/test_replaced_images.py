"""The count of replaced images: each once, over all ranks, and a run with too many ends."""

import pytest
import torch
from image_sets import index_of

from hpc_yolo.cluster.process import ProcessInfo
from hpc_yolo.core.errors import DataError
from hpc_yolo.distributed import World
from hpc_yolo.runs.event_lines import event_line
from hpc_yolo.runs.events import AnyEvent
from hpc_yolo.training.replaced_images import ReplacedImages

ONE_RANK = World(ProcessInfo(0, 0, 0, 1, 1, 1, "127.0.0.1", None, "single"), torch.device("cpu"), ())


def counted_images(num_images, emitted):
    index = index_of([f"/d/{number}.jpg" for number in range(num_images)], [(8, 8)] * num_images, [[]] * num_images)
    return ReplacedImages("train", index, ONE_RANK, emitted.append)


def test_images_are_counted_once_and_reported_when_there_are_more():
    emitted: list[AnyEvent] = []
    counted = counted_images(1000, emitted)
    for images in ((), (5, 6), (6,), (), (9, 5)):
        counted.add(images)
        counted.report(step=7)
    assert [event.total for event in emitted] == [2, 3]
    assert event_line(emitted[-1]) == (
        "warning: damaged train images: 3 of 1000 cannot be read any more, and the next one is used for each "
        "(first: /d/5.jpg, /d/6.jpg, /d/9.jpg)"
    )


@pytest.mark.parametrize(("num_images", "limit"), [(1000, 10), (10, 3)])
def test_more_than_a_hundredth_of_the_images_end_the_run(num_images, limit):
    counted = counted_images(num_images, [])
    counted.add(range(limit))
    counted.report(step=1)
    counted.add([limit])
    with pytest.raises(DataError, match=f"{limit + 1} of {num_images} train images cannot be read any more") as caught:
        counted.report(step=2)
    assert "data check" in caught.value.hint
