"""The mean of the tasks' gradients: what other aggregations are to be better than."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mtl.training.aggregation import Aggregation, Combined


@dataclass
class Mean(Aggregation):
    """Take the mean: plain scalarisation, every task counting the same in every step."""

    def combine(self, jacobian: Tensor, losses: Tensor, gramian: Tensor) -> Combined:
        weights = jacobian.new_full((len(jacobian),), 1 / len(jacobian))
        return Combined(jacobian.mean(0), weights)
