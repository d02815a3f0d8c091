"""Events as lines: what a person reads in a log and in a followed run."""

import msgspec
import pytest
from journal_events import ranks_on, started

from hpc_yolo.runs.event_lines import event_line
from hpc_yolo.runs.events import DataStaging, TrialStopped


@pytest.mark.parametrize(
    ("ranks", "num_images", "steps", "line"),
    [
        (1, 1, 1, "attempt 1: 1 rank on n0 (cpu, float32), 1 image, 1 step of 8 an epoch"),
        (2, 16, 2, "attempt 1: 2 ranks on n0, n1 (cpu, float32), 16 images, 2 steps of 8 an epoch"),
    ],
)
def test_line_of_an_attempt_has_singular_and_plural(ranks, num_images, steps, line):
    sizes = {"world_size": ranks, "num_nodes": ranks, "epochs": 1, "steps_per_epoch": steps, "num_images": num_images}
    start = started(attempt=1, ranks=ranks_on(*(f"n{rank}" for rank in range(ranks))), **sizes)
    assert event_line(start) == line
    start = msgspec.structs.replace(start, augment_device="gpu")
    assert event_line(start) == line.replace(" image,", " image augmented on GPUs,").replace(
        " images,", " images augmented on GPUs,"
    )


@pytest.mark.parametrize(
    ("value", "num_compared", "line"),
    [
        (0.25, 12, "stopped early after epoch 9: asha: mAP50 0.250 is under 0.512, from 12 other trials"),
        (None, 1, "stopped early after epoch 9: asha: mAP50 - is under 0.512, from 1 other trial"),
    ],
    ids=["metric", "metric that is not finite"],
)
def test_line_of_a_trial_that_ends_early_has_its_comparison(value, num_compared, line):
    compared = {"value": value, "threshold": 0.5123, "num_compared": num_compared}
    assert event_line(TrialStopped(rule="asha", metric="map50", epoch=8, step=90, epochs=27, **compared)) == line


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"is_over": False}, "data: staging to $TMPDIR on 2 nodes, 4.0 GiB of 8.0 GiB, 256 MiB/s"),
        ({"done_bytes": 2**33}, "data: staged to $TMPDIR on 2 nodes: 8.0 GiB, 3.0 GiB of them copied in 32 s"),
        ({"done_bytes": 3 * 2**30}, "data: staged to $TMPDIR on 2 nodes: 3.0 GiB copied in 32 s"),
        ({"num_nodes": 1, "copied_bytes": 0}, "data: staged to $TMPDIR on 1 node: 4.0 GiB were there"),
        ({"num_nodes": 0}, "data: not staged"),
    ],
)
def test_line_of_staging(fields, line):
    values = {"num_nodes": 2, "done_bytes": 2**32, "copied_bytes": 3 * 2**30, "is_over": True} | fields
    event = DataStaging(stage="$TMPDIR", total_bytes=2**33, bytes_per_s=2**28, seconds=32.4, **values)
    assert event_line(event) == line
