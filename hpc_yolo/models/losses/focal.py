"""The weight of the focal loss (Lin et al., ICCV 2017), for soft targets too."""

from __future__ import annotations

import torch

FOCAL_ALPHA = 0.25


def focal_weight(logits: torch.Tensor, targets: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return the factor of the cross entropy of each logit, which is small where it is right already."""
    probability = logits.sigmoid()
    right = targets * probability + (1 - targets) * (1 - probability)
    alpha = targets * FOCAL_ALPHA + (1 - targets) * (1 - FOCAL_ALPHA)
    return alpha * (1 - right) ** gamma
