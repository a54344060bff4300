"""Weighting by homoscedastic uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import mtl
from mtl.training.weighting import TaskLoss


@dataclass
class Uncertainty(mtl.Weighting):
    """Learn a noise σ_t² for each task and weigh by the likelihood it gives.

    Kendall, Gal & Cipolla 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses" (arXiv:1705.07115),
    equations 7 and 10: ``c_t · L_t / σ_t² + log σ_t``, with c = ½ for squared errors and 1 for softmax. What is
    learned is ``s_t = log σ_t²``, from 0.
    """

    def setup(self, tasks: Sequence[TaskLoss]) -> None:
        super().setup(tasks)
        self._log_variance = {task.name: nn.Parameter(torch.zeros(())) for task in tasks}

    def parameters(self) -> list[nn.Parameter]:
        return list(self._log_variance.values())

    def weigh(self, task: str, loss: Tensor) -> Tensor:
        log_variance = self._log_variance[task].to(loss.device)
        about = self.tasks[task]
        return about.weight * (about.likelihood_factor * torch.exp(-log_variance) * loss + 0.5 * log_variance)

    def weights(self) -> dict[str, float]:
        return {
            name: about.weight * about.likelihood_factor * float(torch.exp(-self._log_variance[name].detach()))
            for name, about in self.tasks.items()
        }

    def state_dict(self) -> dict[str, Any]:
        return {"log_variance": {name: value.detach() for name, value in self._log_variance.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, value in state["log_variance"].items():
                self._log_variance[name].copy_(value)
