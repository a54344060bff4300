"""Dynamic weight average."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

import mtl
from mtl.training.weighting import TaskLoss


@dataclass
class DynamicWeightAverage(mtl.Weighting):
    """Weigh tasks whose loss falls slowly more.

    Liu, Johns & Davison 2019, "End-to-End Multi-Task Learning with Attention" (arXiv:1803.10704), equation 7:
    ``w_t = T · softmax(r_t / τ)`` with ``r_t`` the ratio of the task's mean losses in the last two periods. The
    paper's period is an epoch; here it is a share of the budget, as tasks of different sizes share no epoch.

    Args:
        temperature: τ; the larger, the more even.
        periods: Periods in the whole training.
    """

    temperature: Annotated[float, Field(gt=0)] = 2.0
    periods: Annotated[int, Field(ge=3)] = 10

    def setup(self, tasks: Sequence[TaskLoss]) -> None:
        super().setup(tasks)
        self._weights = dict.fromkeys(self.tasks, 1.0)
        self._means: list[dict[str, float]] = []
        self._sums = {name: torch.zeros(()) for name in self.tasks}
        self._counts = dict.fromkeys(self.tasks, 0)
        self._period = 0

    def weigh(self, task: str, loss: Tensor) -> Tensor:
        return self.tasks[task].weight * self._weights[task] * loss

    def weights(self) -> dict[str, float]:
        return {name: about.weight * self._weights[name] for name, about in self.tasks.items()}

    def end_step(self, losses: Mapping[str, Tensor], progress: float) -> None:
        for name, loss in losses.items():
            self._sums[name] = self._sums[name].to(loss.device) + loss
            self._counts[name] += 1
        if int(progress * self.periods) > self._period:
            self._period = int(progress * self.periods)
            self._end_period()

    def _end_period(self) -> None:
        last = self._means[-1] if self._means else {}
        means = {
            name: float(self._sums[name]) / count if (count := self._counts[name]) else last.get(name, math.nan)
            for name in self.tasks
        }
        self._means = [*self._means[-1:], means]
        self._sums = {name: torch.zeros(()) for name in self.tasks}
        self._counts = dict.fromkeys(self.tasks, 0)
        if len(self._means) == 2:
            before, now = self._means
            # A task without two means yet counts as one whose loss stands still.
            ratios = {name: now[name] / before[name] if before[name] > 0 else 1.0 for name in self.tasks}
            shares = {name: math.exp((1.0 if math.isnan(ratio) else ratio) / self.temperature) for name, ratio in ratios.items()}
            total = sum(shares.values())
            self._weights = {name: len(shares) * share / total for name, share in shares.items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "weights": self._weights,
            "means": self._means,
            "sums": self._sums,
            "counts": self._counts,
            "period": self._period,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._weights, self._means, self._sums = state["weights"], state["means"], state["sums"]
        self._counts, self._period = state["counts"], state["period"]
