"""ProtoMAML: MAML whose heads start from the support's prototypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from mtl.data.episodes import Episode
from mtl.episodic.gradient_based import GradientBased
from mtl.episodic.learner import need_classes
from mtl.meta.closed_form import Linear, Names, nearest_by_distance, prototypes
from mtl.meta.reader import Reader
from mtl.model.multitask import MultiTaskModel


@dataclass
class ProtoMAML(GradientBased):
    """Start the head as the classifier of a prototypical network, and keep the graph from it to the encoder.

    Triantafillou et al. 2020, "Meta-Dataset: A Dataset of Datasets for Learning to Learn from Few Examples"
    (arXiv:1903.03096), section 3: weight 2p and bias −‖p‖² for a class with prototype p.

    Args:
        name_weight: How many support rows a class's name counts for, where ``episodes.names`` has it read.
    """

    name_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    starts_at_features: ClassVar[bool] = True
    reads_names: ClassVar[bool] = True

    def prepare(self, model: MultiTaskModel) -> None:
        super().prepare(model)
        for reader in self._readers.values():
            need_classes(reader, "protomaml")

    def start(self, reader: Reader, episode: Episode, states: Tensor | None = None) -> Linear:
        reading = reader.read_support(episode, states)
        names = None if reading.names is None else Names(reading.names, self.name_weight)
        means = prototypes(reading.support, reading.answers, len(episode.outputs), names)
        linear = nearest_by_distance(means, 1.0)
        return Linear(linear.weight, self.scale * linear.bias)
