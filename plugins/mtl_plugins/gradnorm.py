"""Aggregation with learned weights that keep the tasks' gradients of like length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mtl.training.aggregation import Aggregation, Combined


@dataclass
class GradNorm(Aggregation):
    """Learn weights so that the length of each weighted gradient is the mean length, times how far behind its task is.

    Chen et al. 2018, "GradNorm" (arXiv:1711.02257), equations 1 and 2 and algorithm 1, on the parameters that are balanced.
    With ``n_t = w_t ‖g_t‖``, their mean ``n``, and ``r_t`` the loss of the task by its first one, over the mean of these, the
    weights descend ``Σ_t |n_t − n · r_t^α|``, ``n · r_t^α`` held fixed, and are brought back to a mean of 1.

    Args:
        alpha: How much a task that is behind is helped; 0 makes all lengths the same.
        rate: Of the weights.
    """

    alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.5
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.025
    every_task: ClassVar[bool] = True

    def setup(self, tasks: Sequence[str]) -> None:
        self._weights = torch.ones(len(tasks))
        self._first: Tensor | None = None

    def combine(self, jacobian: Tensor, losses: Tensor, gramian: Tensor) -> Combined:
        weights, values = self._weights.to(jacobian), losses.detach()
        self._first = values.clone() if self._first is None else self._first
        combined = Combined(weights @ jacobian / len(weights), weights / len(weights))
        norms = gramian.diagonal().clamp(min=0).sqrt()
        behind = values / self._first.to(values).clamp(min=1e-12)
        target = (weights * norms).mean() * (behind / behind.mean().clamp(min=1e-12)) ** self.alpha
        moved = (weights - self.rate * torch.sign(weights * norms - target) * norms).clamp(min=1e-3)
        self._weights = (moved * len(moved) / moved.sum()).cpu()
        return combined

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self._weights, "first": torch.empty(0) if self._first is None else self._first}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._weights = state["weights"].clone()
        self._first = state["first"].clone() if len(state["first"]) else None
