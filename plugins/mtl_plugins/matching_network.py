"""Matching networks: a query is answered by attention over the support."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mtl.data.episodes import Episode
from mtl.episodic.learner import Answerer, EpisodicStrategy, read_support
from mtl.meta.closed_form import matching
from mtl.meta.reader import Reader
from mtl.model.multitask import MultiTaskModel
from mtl_plugins.matching import Matching

if TYPE_CHECKING:
    from mtl.config import EpisodesConfig
    from mtl.transfer.adaptation import Adaptation


@dataclass
class MatchingNetwork(EpisodicStrategy):
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

    def learn(self, reader: Reader, episode: Episode) -> Answerer:
        features, answers = read_support(reader, episode)
        outputs, scale = len(episode.outputs), self.factor("scale")
        return lambda batch: matching(features, answers, outputs, reader.features(batch), scale)

    def adaptation(self, episodes: EpisodesConfig) -> Adaptation:
        return Matching(scale=float(self.factor("scale").detach()))
