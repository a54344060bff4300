"""Strategy: how parameters come to be. It turns a draw into gradients; the loop does everything else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from mtl.data.batches import Batch
from mtl.training.weighting import TaskLoss

if TYPE_CHECKING:
    from mtl.config import Choice
    from mtl.model.multitask import MultiTaskModel

#: Makes a registered thing from its choice in the configuration: ``build("weighting", choice)``.
Build = Callable[[str, "Choice"], Any]
#: What one step learns from: one batch, or several whose gradients are added.
Draw = Sequence[Batch]


@dataclass
class StepReport:
    """What a step says of itself. Losses stay tensors, so that reporting does not wait for the device.

    Attributes:
        losses: Mean loss per predicted unit of each task in the step, ``[]``.
        weights: Weight of each task.
    """

    losses: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)


class Strategy(ABC):
    """How the parameters of one or more models are learned. Write one as a dataclass; its fields are its options.

    Attributes:
        trains: Whether there is anything to train.
        second_order: Whether second derivatives of the encoder are taken; decides the attention path.
    """

    trains: ClassVar[bool] = True
    second_order: ClassVar[bool] = False

    def groups(self, tasks: Sequence[str]) -> dict[str, list[str]]:
        """Return the models to train: a name for each, and its tasks. One model for all by default."""
        return {"joint": list(tasks)}

    def setup(self, tasks: Sequence[TaskLoss], build: Build) -> None:
        """Get ready for training one model on ``tasks``."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return what is trained beside the model."""
        return []

    @abstractmethod
    def fill_gradients(self, model: MultiTaskModel, draw: Draw) -> StepReport:
        """Add the gradients of one step to ``.grad``. A head without rows in the draw keeps ``grad is None``."""

    def end_step(self, report: StepReport, progress: float) -> None:
        """Be told that the optimiser has stepped."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs: tensors and JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
