"""Weighting: how the losses of the tasks are weighed against one another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class TaskLoss:
    """What a weighting may know of a task.

    Attributes:
        name: The task.
        weight: The weight its author gave it.
        likelihood_factor: See :class:`mtl.TaskKind`.
    """

    name: str
    weight: float
    likelihood_factor: float


class Weighting(ABC):
    """Turns a task's loss into its weighted loss. Write one as a dataclass; its fields are its options.

    A weighting is linear in the loss, so that a task's rows may be spread over several batches of a step.
    """

    def setup(self, tasks: Sequence[TaskLoss]) -> None:
        """Get ready for a training with ``tasks``."""
        self.tasks = {task.name: task for task in tasks}

    def check(self) -> None:
        """Refuse options that do not fit; called after :meth:`setup` with all tasks of an experiment, before anything slow.

        Raises:
            MTLError: Saying what does not fit.
        """

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained along with the model; nothing by default."""
        return []

    def begin_step(self) -> None:
        """Be told that a step begins."""

    @abstractmethod
    def weigh(self, task: str, loss: Tensor) -> Tensor:
        """Return the weighted loss of ``task``, ``[]``."""

    @abstractmethod
    def weights(self) -> dict[str, float]:
        """Return the present weight of every task, for the log."""

    def end_step(self, losses: Mapping[str, Tensor], progress: float) -> None:
        """Be told the detached losses of a step, ``[]`` each, and how much of the budget has been used."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs: tensors and JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
