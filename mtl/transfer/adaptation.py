"""Adaptation: how a few support examples become a predictor for a target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from mtl.data.episodes import EpisodeRows
from mtl.errors import ConfigError
from mtl.meta.closed_form import Linear, Names
from mtl.meta.inner import Parameters
from mtl.model.encoder import Encoder
from mtl.transfer.space import Space

#: Gives the outputs of rows of the pool, ``[rows, ..., outputs of the episode]``.
Predictor = Callable[[Sequence[int]], Tensor]


@dataclass(frozen=True)
class LinearPredictor:
    """A linear layer on features of length 1, of the encoder as it is or with some of its parameters moved.

    Attributes:
        space: The target.
        head: The layer.
        parameters: The encoder's moved parameters, by name.
        depth: The first layer that they are of; −1 for the embeddings.
    """

    space: Space
    head: Linear
    parameters: Parameters = field(default_factory=dict)
    depth: int = -1

    @torch.inference_mode()
    def __call__(self, rows: Sequence[int]) -> Tensor:
        """Return the outputs of rows."""
        if self.parameters:
            return self.head(self.space.encode(rows, self.parameters, self.depth))
        return self.head(self.space.features[list(rows)])


class Adaptation(ABC):
    """How a few support examples become a predictor. Write one as a dataclass; its fields are its options.

    Attributes:
        transductive: Whether the queries of an episode are answered together, each by help of the others.
        of_classes: Whether it answers with classes alone, and not with values.
    """

    transductive: ClassVar[bool] = False
    of_classes: ClassVar[bool] = False

    def check_encoder(self, encoder: Encoder) -> None:
        """Refuse an encoder that it cannot work with, before anything slow begins.

        Raises:
            MTLError: Saying what is missing, and what to set.
        """

    def needs_support(self) -> bool:
        """Say whether it needs an example at least; one that reads the classes' names does not."""
        return not getattr(self, "name_weight", 0)

    @abstractmethod
    def adapt(self, space: Space, episode: EpisodeRows) -> Predictor:
        """Learn from an episode's support. The queries are not looked at, but by one that is :attr:`transductive`.

        Raises:
            ConfigError: If the target cannot be learned in this way.
        """


class FeatureAdaptation(Adaptation):
    """An adaptation that leaves the encoder as it is and makes a linear layer of the support's features."""

    def adapt(self, space: Space, episode: EpisodeRows) -> Predictor:
        features, answers, names = self.given(space, episode)
        return LinearPredictor(space, self.fit(features, answers, len(space.outputs(episode)), names))

    def given(self, space: Space, episode: EpisodeRows) -> tuple[Tensor, Tensor, Names | None]:
        """Return the support's features and answers, and the classes' names where they are to be read.

        Raises:
            ConfigError: If there is neither.
        """
        names = self.names(space, episode)
        if names is None:
            need_support(space, episode)
        return *space.support(episode), names

    def names(self, space: Space, episode: EpisodeRows) -> Names | None:
        """Return the classes' names where they are to be read."""
        return None

    @abstractmethod
    def fit(self, features: Tensor, answers: Tensor, outputs: int, names: Names | None) -> Linear:
        """Make the layer.

        Args:
            features: ``[units, features]``, of length 1.
            answers: Places among the outputs, or values; ``[units]``.
            outputs: How many outputs there are.
            names: The classes' names, if they are to be read.
        """


def read_names(space: Space, episode: EpisodeRows, weight: float) -> Names | None:
    """Return the names of an episode's classes, each counting for ``weight`` support rows; ``None`` if it is 0.

    Where names cannot be read with the rows of a kind, as with pairs of texts, the support alone is learned from.

    Raises:
        ConfigError: If there is no support either.
    """
    if not weight:
        return None
    if space.target.names is None and not episode.support:
        task = space.kind.task
        raise ConfigError(
            f"Target {task.name!r}: with 0 shots there is nothing to learn from, as names of classes cannot be read with rows of "
            f"kind {task.kind!r}{' and pairing: bi' if space.kind.sequences > 1 else ''}. Leave 0 out of targets.shots."
        )
    return None if space.names is None else Names(space.names[list(episode.classes)], weight)


def need_support(space: Space, episode: EpisodeRows) -> None:
    """Refuse an episode without any support.

    Raises:
        ConfigError: Naming the target.
    """
    if not episode.support:
        raise ConfigError(
            f"Target {space.kind.task.name!r}: with 0 shots there is nothing to learn from but the classes' names. Take the "
            "adaptation {name: prototype, name_weight: 1}, or leave 0 out of targets.shots."
        )


def refuse_values(answers: Tensor, method: str) -> None:
    """Refuse answers that are values where classes are needed.

    Raises:
        ConfigError: Naming the method.
    """
    if answers.is_floating_point():
        raise of_classes_alone(method, "the target")


def of_classes_alone(method: str, target: str) -> ConfigError:
    """Return what is raised where an adaptation to classes is asked for a target of values."""
    return ConfigError(f"Adaptation {method!r} needs classes, and {target} has values. Use ridge for it.")
