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
    all negative ones: the positive where the purity ``½ (1 + Σg / Σ|g|)`` is above a number drawn from 0 to 1. Own code, as
    TorchJD's makes more passes over the numbers; the gradients are the same.
    """

    weighs: ClassVar[bool] = False

    def combine(self, jacobian: Tensor, losses: Tensor, gramian: Tensor) -> Combined:
        found = jacobian.new_empty(1, jacobian.shape[1])
        for piece, (kept,) in zip(pieces(jacobian), pieces(found), strict=True):
            sizes = piece.abs().sum(0)
            torch.sum(piece, 0, out=kept)
            # Without the division a parameter whose gradients are all 0 has no purity of 0 / 0: it stays.
            least = torch.rand_like(sizes).mul_(2).sub_(1).mul_(sizes)
            # The sum of the positive ones is ½ (Σg + Σ|g|), that of the negative ones ½ (Σg − Σ|g|).
            kept.add_(sizes.copysign_(kept - least)).mul_(0.5)
        return Combined(found[0])
