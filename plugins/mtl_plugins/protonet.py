"""ProtoNet: a space of features in which a class is its mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from mtl.episodic.learner import need_classes
from mtl.episodic.metric import MetricLearner
from mtl.meta.closed_form import Names, prototypes
from mtl.meta.reader import Reading
from mtl.model.multitask import MultiTaskModel
from mtl_plugins.prototype import NEAREST, Prototype

if TYPE_CHECKING:
    from mtl.config import EpisodesConfig
    from mtl.transfer.adaptation import Adaptation


@dataclass
class ProtoNet(MetricLearner):
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

    reads_names: ClassVar[bool] = True

    def prepare(self, model: MultiTaskModel) -> None:
        super().prepare(model)
        for reader in self._readers.values():
            need_classes(reader, "protonet")
        self.learn_factor("scale", self.scale)

    def answer(self, reading: Reading, queries: Tensor, outputs: int) -> Tensor:
        names = None if reading.names is None else Names(reading.names, self.name_weight)
        means = prototypes(reading.support, reading.answers, outputs, names)
        return NEAREST[self.metric](means, self.factor("scale"))(queries)

    def answers_by_names(self, episodes: EpisodesConfig) -> bool:
        return episodes.names and self.name_weight > 0

    def adaptation(self, episodes: EpisodesConfig) -> Adaptation:
        names = self.name_weight if episodes.names else 0.0
        return Prototype(metric=self.metric, scale=float(self.factor("scale").detach()), name_weight=names)
