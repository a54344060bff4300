"""Random loss weighting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import mtl
from mtl.training.weighting import TaskLoss


@dataclass
class RandomWeighting(mtl.Weighting):
    """Draw new weights at every step: a baseline that is hard to beat.

    Lin et al. 2022, "Reasonable Effectiveness of Random Weighting" (arXiv:2111.10603), RLW with normal weights:
    ``w = T · softmax(z)``, z standard normal; the factor T keeps the mean weight at 1. Drawn from torch's global
    generator.
    """

    def setup(self, tasks: Sequence[TaskLoss]) -> None:
        super().setup(tasks)
        self._weights = dict.fromkeys(self.tasks, 1.0)

    def begin_step(self) -> None:
        drawn = len(self.tasks) * torch.softmax(torch.randn(len(self.tasks)), dim=0)
        self._weights = dict(zip(self.tasks, drawn.tolist(), strict=True))

    def weigh(self, task: str, loss: Tensor) -> Tensor:
        return self.tasks[task].weight * self._weights[task] * loss

    def weights(self) -> dict[str, float]:
        return {name: about.weight * self._weights[name] for name, about in self.tasks.items()}
