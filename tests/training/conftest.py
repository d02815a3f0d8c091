"""Fixtures of tests that train in their own process."""

from collections.abc import Iterator

import pytest
import torch

from hpc_yolo.training import final_plots


@pytest.fixture(scope="module")
def quick_training() -> Iterator[None]:
    """Train on one thread, and draw no charts at the end, which takes longer than the training."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_training", "draw_evaluation"):
            patch.setattr(final_plots, name, lambda *_arguments: None)
        yield
    torch.set_num_threads(before)
