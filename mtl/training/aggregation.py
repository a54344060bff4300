"""Aggregation: how the gradients of the tasks on what they share become one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Combined:
    """What an aggregation makes of a step's gradients.

    Attributes:
        gradient: The one that is followed, ``[parameters]``.
        weights: Of the tasks, ``[tasks]``, where it is a weighted sum of theirs.
    """

    gradient: Tensor
    weights: Tensor | None = None


def pieces(jacobian: Tensor, parameters: int = 2**17) -> Sequence[Tensor]:
    """Return a Jacobian in pieces of so many ``parameters`` that a processor's cache holds what is made of one on the way."""
    found: Sequence[Tensor] = torch.split(jacobian, parameters, dim=1)
    return found


def gramian_of(jacobian: Tensor, parameters: int = 2**12) -> Tensor:
    """Return the products of the gradients, ``jacobian @ jacobian.T``, ``[tasks, tasks]``.

    In blocks of so many ``parameters``, so that memory is read once: a product of so few and such long rows as a whole reads
    them several times, and takes two to four times as long with 2 to 8 tasks.
    """
    tasks, whole = len(jacobian), jacobian.shape[1] // parameters
    blocks = jacobian[:, : whole * parameters].view(tasks, whole, parameters).transpose(0, 1)
    rest = jacobian[:, whole * parameters :]
    found: Tensor = (blocks @ blocks.mT).sum(0) + rest @ rest.T
    return found


class Aggregation(ABC):
    """Makes one gradient of several. Write one as a dataclass; its fields are its options.

    Attributes:
        every_task: Whether every task must be in every step.
        weighs: Whether what comes out is a weighted sum of the gradients, with weights that it tells.
    """

    every_task: ClassVar[bool] = False
    weighs: ClassVar[bool] = True

    def setup(self, tasks: Sequence[str]) -> None:
        """Get ready for a training with ``tasks``."""

    @abstractmethod
    def combine(self, jacobian: Tensor, losses: Tensor, gramian: Tensor) -> Combined:
        """Return one gradient.

        Args:
            jacobian: The gradient of each task's loss on what is shared, ``[tasks, parameters]``.
            losses: ``[tasks]``, each a mean per predicted unit, times the task's weight.
            gramian: The products of the gradients, ``jacobian @ jacobian.T``, ``[tasks, tasks]``: a step makes them once.
        """

    def looks_back(self) -> bool:
        """Say whether it is to be told the losses of the same rows after this step, which costs a pass without a way back."""
        return False

    def look_back(self, losses: Tensor) -> None:
        """Be told the losses after the step, ``[tasks]``."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs: tensors and JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
