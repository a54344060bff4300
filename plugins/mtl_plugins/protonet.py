"""ProtoNet: a space of features in which a class is its mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from mtl.data.episodes import Episode
from mtl.episodic.learner import Answerer, EpisodicStrategy, need_classes, read_names, read_support
from mtl.meta.closed_form import nearest_by_cosine, nearest_by_distance, prototypes
from mtl.meta.reader import Reader
from mtl.model.multitask import MultiTaskModel
from mtl_plugins.prototype import Prototype

if TYPE_CHECKING:
    from mtl.config import EpisodesConfig
    from mtl.transfer.adaptation import Adaptation

_NEAREST = {"cosine": nearest_by_cosine, "euclidean": nearest_by_distance}


@dataclass
class ProtoNet(EpisodicStrategy):
    """Train the encoder so that a query is nearest to the mean of its class's support.

    Snell et al. 2017, "Prototypical Networks for Few-shot Learning" (arXiv:1703.05175), equations 1 and 2. Features
    are of length 1, and the logits have a learned scale (the temperature of Oreshkin et al. 2018, arXiv:1805.10123).

    Args:
        metric: ``cosine``, or squared ``euclidean`` distance.
        scale: Where the scale of the logits starts.
        name_weight: How many support rows a class's name counts for, where ``episodes.names`` has it read.
    """

    metric: Literal["cosine", "euclidean"] = "cosine"
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    name_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    def prepare(self, model: MultiTaskModel) -> None:
        super().prepare(model)
        for reader in self._readers.values():
            need_classes(reader, "protonet")
        self.learn_factor("scale", self.scale)

    def learn(self, reader: Reader, episode: Episode) -> Answerer:
        features, answers = read_support(reader, episode)
        names = read_names(reader, episode.names, self.name_weight)
        means = prototypes(features, answers, len(episode.outputs), names)
        head = _NEAREST[self.metric](means, self.factor("scale"))
        return lambda batch: head(reader.features(batch))

    def adaptation(self, episodes: EpisodesConfig) -> Adaptation:
        return Prototype(metric=self.metric, name_weight=self.name_weight if episodes.names else 0.0)
