"""Strategy: how parameters come to be. It turns a draw into gradients; the loop does everything else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from mtl.training.draws import Batches, Draws
from mtl.training.weighting import TaskLoss

if TYPE_CHECKING:
    from mtl.config import Choice, EpisodesConfig, ExperimentConfig
    from mtl.model.encoder import Encoder
    from mtl.model.inference import TaskData
    from mtl.model.multitask import MultiTaskModel
    from mtl.training.sampler import Sampler
    from mtl.transfer.adaptation import Adaptation

#: Makes a registered thing from its choice in the configuration: ``build("weighting", choice)``.
Build = Callable[[str, "Choice"], Any]
#: What one step learns from: batches or episodes, as :meth:`Strategy.draws` has them; their gradients are added.
Draw = Sequence[Any]


@dataclass
class StepReport:
    """What a step says of itself. Losses stay tensors, so that reporting does not wait for the device.

    Attributes:
        losses: Mean loss per predicted unit of each task in the step, ``[]``.
        weights: Weight of each task.
        gradients: ``tasks``, their ``norms`` and ``cosines``, from strategies that look at each task's gradient.
    """

    losses: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, Any] = field(default_factory=dict)


class Strategy(ABC):
    """How the parameters of one or more models are learned. Write one as a dataclass; its fields are its options.

    Attributes:
        trains: Whether there is anything to train.
        trains_heads: Whether the tasks' heads are trained, so that there is something to test them by.
        of_one_encoder: Whether what it practises fits the encoder that it trains, and no other.
    """

    trains: ClassVar[bool] = True
    trains_heads: ClassVar[bool] = True
    of_one_encoder: ClassVar[bool] = False

    @property
    def second_order(self) -> bool:
        """Whether derivatives by the encoder's parameters or states are differentiated again."""
        return False

    def groups(self, tasks: Sequence[str]) -> dict[str, list[str]]:
        """Return the models to train: a name for each, and its tasks. One model for all by default."""
        return {"joint": list(tasks)}

    def setup(self, tasks: Sequence[TaskLoss], build: Build) -> None:
        """Get ready for training one model on ``tasks``."""

    def check(self, config: ExperimentConfig, sampler: Sampler) -> None:
        """Refuse what of the configuration does not go with it, after :meth:`setup` and before any data are read.

        Raises:
            ConfigError: Saying what does not go together, and what to set.
        """

    def check_encoder(self, encoder: Encoder) -> None:
        """Refuse an encoder that it cannot train here, before the tasks are read.

        Raises:
            ConfigError: Saying what is missing, and what to set.
        """

    def prepare(self, model: MultiTaskModel) -> None:
        """Get ready for training ``model``, after :meth:`setup` and before :meth:`parameters`."""

    def draws(self, data: Mapping[str, TaskData], sampler: Sampler, config: ExperimentConfig, examples: int) -> Draws:
        """Return what the steps learn from: batches of rows by default."""
        return Batches(data, sampler, config, examples)

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return what is trained beside the model."""
        return []

    @abstractmethod
    def fill_gradients(self, model: MultiTaskModel, draw: Draw) -> StepReport:
        """Add the gradients of one step to ``.grad``. A head without rows in the draw keeps ``grad is None``."""

    def end_step(self, report: StepReport, progress: float) -> None:
        """Be told that the optimiser has stepped."""

    def adaptation(self, episodes: EpisodesConfig) -> Adaptation | None:
        """Return the way to learn a target that the training has practised; ``None`` if it has not."""
        return None

    def answers_by_names(self, episodes: EpisodesConfig) -> bool:
        """Say whether what it has practised answers without any support, by the classes' written names."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs: tensors and JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
