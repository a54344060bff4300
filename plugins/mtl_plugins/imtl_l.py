"""Weighting by learned scales that make the losses alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import mtl
from mtl.training.weighting import TaskLoss


@dataclass
class IMTLL(mtl.Weighting):
    """Learn a scale for each task so that all scaled losses come to 1.

    Liu et al. 2021, "Towards Impartial Multi-Task Learning" (ICLR), section 3.2, equation 6: ``exp(s_t) · L_t − s_t`` with
    ``s_t`` learned from 0.
    """

    def setup(self, tasks: Sequence[TaskLoss]) -> None:
        super().setup(tasks)
        self._scale = {task.name: nn.Parameter(torch.zeros(())) for task in tasks}

    def parameters(self) -> list[nn.Parameter]:
        return list(self._scale.values())

    def weigh(self, task: str, loss: Tensor) -> Tensor:
        scale = self._scale[task].to(loss.device)
        return self.tasks[task].weight * (torch.exp(scale) * loss - scale)

    def weights(self) -> dict[str, float]:
        return {name: about.weight * float(torch.exp(self._scale[name].detach())) for name, about in self.tasks.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"scale": {name: value.detach() for name, value in self._scale.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, value in state["scale"].items():
                self._scale[name].copy_(value)
