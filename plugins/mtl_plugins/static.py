"""Fixed weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field
from torch import Tensor

import mtl
from mtl.errors import UnknownNameError


@dataclass
class Static(mtl.Weighting):
    """Weigh each task's loss by a fixed number: the task's own weight, or the one given here.

    Args:
        weights_by_task: Task name → weight.
    """

    weights_by_task: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = field(default_factory=dict)

    def check(self) -> None:
        for name in self.weights_by_task:
            if name not in self.tasks:
                raise UnknownNameError("task in weights_by_task", name, self.tasks)

    def weigh(self, task: str, loss: Tensor) -> Tensor:
        return self._weight(task) * loss

    def weights(self) -> dict[str, float]:
        return {task: self._weight(task) for task in self.tasks}

    def _weight(self, task: str) -> float:
        return self.weights_by_task.get(task, self.tasks[task].weight)
