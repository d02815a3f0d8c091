"""Events as lines: what a person reads in a log and in a followed run."""

import pytest

from hpc_yolo.runs.event_lines import event_line
from hpc_yolo.runs.events import AttemptStarted, RankLocation


@pytest.mark.parametrize(
    ("ranks", "num_images", "steps", "line"),
    [
        (1, 1, 1, "attempt 1: 1 rank on n0 (cpu, float32), 1 image, 1 step of 8 an epoch"),
        (2, 16, 2, "attempt 1: 2 ranks on n0, n1 (cpu, float32), 16 images, 2 steps of 8 an epoch"),
    ],
)
def test_line_of_an_attempt_has_singular_and_plural(ranks, num_images, steps, line):
    started = AttemptStarted(
        attempt=1, job_id=None, launcher="single", device="cpu", precision="float32", world_size=ranks, num_nodes=ranks,
        batch=8, epochs=1, steps_per_epoch=steps, num_images=num_images, epoch=0, step=0,
        ranks=[RankLocation(rank=rank, local_rank=0, node_rank=rank, host=f"n{rank}", pid=1) for rank in range(ranks)],
    )  # fmt: skip
    assert event_line(started) == line
