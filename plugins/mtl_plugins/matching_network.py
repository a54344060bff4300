"""Matching networks: a query is answered by attention over the support."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from torch import Tensor

from mtl.episodic.metric import MetricLearner
from mtl.meta.closed_form import matching
from mtl.meta.reader import Reading
from mtl.model.multitask import MultiTaskModel
from mtl_plugins.matching import Matching

if TYPE_CHECKING:
    from mtl.config import EpisodesConfig
    from mtl.transfer.adaptation import Adaptation


@dataclass
class MatchingNetwork(MetricLearner):
    """Train the encoder so that the support rows nearest to a query have its answer.

    Vinyals et al. 2016, "Matching Networks for One Shot Learning" (arXiv:1606.04080), equation 1, without full
    context embeddings.

    Args:
        scale: Where the scale of the cosines starts.
    """

    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0

    def prepare(self, model: MultiTaskModel) -> None:
        super().prepare(model)
        self.learn_factor("scale", self.scale)

    def answer(self, reading: Reading, queries: Tensor, outputs: int) -> Tensor:
        return matching(reading.support, reading.answers, outputs, queries, self.factor("scale"))

    def adaptation(self, episodes: EpisodesConfig) -> Adaptation:
        return Matching(scale=float(self.factor("scale").detach()))
