"""R2D2: the head of an episode is a ridge regression in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mtl.data.episodes import Episode
from mtl.episodic.learner import Answerer, EpisodicStrategy, read_support
from mtl.meta.closed_form import as_targets, ridge
from mtl.meta.reader import Reader
from mtl.model.multitask import MultiTaskModel
from mtl_plugins.ridge import Ridge

if TYPE_CHECKING:
    from mtl.config import EpisodesConfig
    from mtl.transfer.adaptation import Adaptation


@dataclass
class R2D2(EpisodicStrategy):
    """Train the encoder through a ridge regression on the support; penalty and scale of the logits are learned.

    Bertinetto et al. 2019, "Meta-learning with differentiable closed-form solvers" (arXiv:1805.08136), section 3.2.

    Args:
        penalty: Where λ starts.
        scale: Where the scale of the logits starts.
    """

    penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0

    def prepare(self, model: MultiTaskModel) -> None:
        super().prepare(model)
        self.learn_factor("penalty", self.penalty)
        self.learn_factor("scale", self.scale)

    def learn(self, reader: Reader, episode: Episode) -> Answerer:
        features, answers = read_support(reader, episode)
        head = ridge(features, as_targets(answers, len(episode.outputs), features.dtype), self.factor("penalty"))
        scale = 1.0 if answers.is_floating_point() else self.factor("scale")
        return lambda batch: scale * head(reader.features(batch))

    def adaptation(self, episodes: EpisodesConfig) -> Adaptation:
        return Ridge(penalty=float(self.factor("penalty").detach()))
