"""Aggregation that keeps the gradients of one sign, parameter by parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mtl.training.aggregation import Aggregation, Combined, pieces


@dataclass
class GradDrop(Aggregation):
    """Keep, of every parameter, the gradients of one sign, drawn by their purity (Chen et al. 2020, arXiv:2010.06808).

    Algorithm 1 with the purity as it is and no leak. All positive gradients of a parameter are kept or left together, and so are
    all negative ones; with their sums ``p`` and ``n`` the purity ``½ (1 + Σg / Σ|g|)`` is ``p / (p − n)``. Own code, as
    TorchJD's makes more passes over the numbers; the gradients are the same.
    """

    weighs: ClassVar[bool] = False

    def combine(self, jacobian: Tensor, losses: Tensor, gramian: Tensor) -> Combined:
        found = []
        for piece in pieces(jacobian):
            positive = piece.relu().sum(0)
            negative = piece.sum(0) - positive
            drawn = torch.rand_like(positive)
            # Without the division a parameter whose gradients are all 0 has no purity of 0 / 0: it stays.
            found.append(torch.where(positive > drawn * (positive - negative), positive, negative))
        return Combined(torch.cat(found))
