"""Strategies that learn from episodes: what they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from mtl.data.episodes import Episode
from mtl.errors import ConfigError, TrainingError
from mtl.kind import TaskKind
from mtl.meta.reader import Reader, Trunk
from mtl.training.draws import Draws, Episodes
from mtl.training.strategy import Draw, StepReport, Strategy

if TYPE_CHECKING:
    from mtl.config import ExperimentConfig
    from mtl.model.inference import TaskData
    from mtl.model.multitask import MultiTaskModel
    from mtl.training.sampler import Sampler


class EpisodicStrategy(Strategy):
    """Learns an initialisation or a space of features from episodes. The tasks' own heads are not trained.

    Attributes:
        reads_names: Whether it reads the classes' names of an episode, where ``episodes.names`` has them given.
    """

    trains_heads: ClassVar[bool] = False
    reads_names: ClassVar[bool] = False

    def check(self, config: ExperimentConfig, sampler: Sampler) -> None:
        super().check(config, sampler)
        if config.episodes.names and not self.reads_names:
            raise ConfigError(
                f"episodes.names: strategy {config.strategy.name!r} does not read the names of classes, so they would change "
                "nothing. Set it to false, or take a strategy that does, such as protonet or protomaml."
            )

    def prepare(self, model: MultiTaskModel) -> None:
        self._readers = make_readers(model, Trunk(model.encoder, -1))
        self._learned = nn.ParameterDict()
        self._device = next(model.encoder.parameters()).device

    def learn_factor(self, name: str, start: float) -> None:
        """Add a positive factor to what is trained beside the model, kept as its logarithm."""
        device = self._device
        self._learned[name] = nn.Parameter(torch.tensor(start, device=device).log())

    def factor(self, name: str) -> Tensor:
        """Return a factor, ``[]``."""
        own: Tensor = self._learned[name]
        return own.exp()

    def parameters(self) -> Iterable[nn.Parameter]:
        return self._learned.parameters()

    def state_dict(self) -> dict[str, Any]:
        return {"learned": {name: value.detach() for name, value in self._learned.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, value in state["learned"].items():
                if name in self._learned:  # the optimiser knows it by identity
                    self._learned[name].copy_(value)
                else:  # of a kind that no task at hand is of
                    self._learned[name] = nn.Parameter(value.clone())

    def draws(self, data: Mapping[str, TaskData], sampler: Sampler, config: ExperimentConfig, examples: int) -> Draws:
        return Episodes(data, sampler, config, examples)

    def fill_gradients(self, model: MultiTaskModel, draw: Draw) -> StepReport:
        report = StepReport()
        counts: dict[str, int] = {}
        for episode in draw:
            loss = self.episode_loss(self._readers[episode.task], episode)
            check_finite(loss, episode, self._readers[episode.task].kind)
            torch.autograd.backward(loss / len(draw))
            counts[episode.task] = counts.get(episode.task, 0) + 1
            seen = report.losses.get(episode.task, torch.zeros_like(loss))
            report.losses[episode.task] = seen + (loss.detach() - seen) / counts[episode.task]
        report.weights = {task: count / len(draw) for task, count in counts.items()}
        return report

    @abstractmethod
    def episode_loss(self, reader: Reader, episode: Episode) -> Tensor:
        """Return the loss on an episode's queries, ``[]``, differentiable by all that is trained."""


def make_readers(model: MultiTaskModel, trunk: Trunk) -> dict[str, Reader]:
    """Return a reader for every task of a model.

    Raises:
        ConfigError: If a task cannot be learned in episodes.
    """
    return {name: Reader(model.encoder, kind, model.head(name), trunk) for name, kind in model.kinds.items()}


def need_classes(reader: Reader, method: str) -> None:
    """Refuse a kind that answers with values.

    Raises:
        ConfigError: Naming the task.
    """
    if not reader.kind.labels:
        name, kind = reader.kind.task.name, reader.kind.task.kind
        raise ConfigError(f"Task {name!r}: kind {kind!r} has no classes, which {method} needs. Use ridge or r2d2 for it.")


def check_finite(loss: Tensor, episode: Episode, kind: TaskKind) -> None:
    """Stop where a loss is not a number.

    Raises:
        TrainingError: Naming the episode.
    """
    if not bool(torch.isfinite(loss)):
        raise TrainingError(f"The query loss of {describe(episode, kind)} is {float(loss.detach())}. Lower the rates.")


def describe(episode: Episode, kind: TaskKind) -> str:
    """Name an episode for messages."""
    names = ", ".join(kind.class_names[number] for number in episode.classes[:6])
    more = ", …" if len(episode.classes) > 6 else ""
    classes = f", classes {names}{more}" if names else ""
    return f"an episode of task {episode.task!r} ({episode.support.rows} support rows{classes})"
