"""The interface of a loss: named terms that are means over a global batch, computed in parts by all ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import nn

SumOverRanks = Callable[[torch.Tensor], torch.Tensor]


def on_this_rank(tensor: torch.Tensor) -> torch.Tensor:
    """Return `tensor`: the sum over the ranks of a single process."""
    return tensor


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """Return the type to calculate a loss in: positions need more than the 8 or 11 bits of bf16 and fp16."""
    return torch.promote_types(dtype, torch.float32)


class Loss(nn.Module, ABC):
    """The loss of a head as a dict of named terms. A subclass computes them in `terms`.

    The names are those of `gains`: journal, log, screens, charts and TensorBoard show the terms under them, in their
    order. Training minimises the sum of the terms times the number of images of the global batch.

    Args:
        gains: the weight of each term.
    """

    def __init__(self, gains: Mapping[str, float]) -> None:
        super().__init__()
        self.gains = dict(gains)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the terms."""
        return tuple(self.gains)

    def forward(
        self,
        predictions: list[torch.Tensor],
        targets: torch.Tensor,
        sum_over_ranks: SumOverRanks = on_this_rank,
        world_size: int = 1,
    ) -> dict[str, torch.Tensor]:
        """Return this rank's part of each term, a scalar with its gain.

        The parts of all ranks sum to the term that a single process would compute for the global batch.

        Args:
            predictions: raw outputs of the head in training, (B, A, H, W, outputs) a level; any floating type.
            targets: (n, 6) index of the image in this rank's part, class, cxcywh in [0, 1]; -1 as index: padding.
            sum_over_ranks: sums a small tensor, such as counts, over all ranks.
        """
        terms = self.terms(predictions, targets, sum_over_ranks, world_size)
        return {name: terms[name] * gain for name, gain in self.gains.items()}

    @abstractmethod
    def terms(
        self, predictions: list[torch.Tensor], targets: torch.Tensor, sum_over_ranks: SumOverRanks, world_size: int
    ) -> dict[str, torch.Tensor]:
        """Return this rank's part of each term before its gain; arguments as in `forward`."""
