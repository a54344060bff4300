"""R2D2: the head of an episode is a ridge regression in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from torch import Tensor

from mtl.episodic.metric import MetricLearner
from mtl.meta.closed_form import as_targets, ridge
from mtl.meta.reader import Reading
from mtl.model.multitask import MultiTaskModel
from mtl_plugins.ridge import Ridge

if TYPE_CHECKING:
    from mtl.config import EpisodesConfig
    from mtl.transfer.adaptation import Adaptation


@dataclass
class R2D2(MetricLearner):
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

    def answer(self, reading: Reading, queries: Tensor, outputs: int) -> Tensor:
        targets = as_targets(reading.answers, outputs, reading.support.dtype)
        head = ridge(reading.support, targets, self.factor("penalty"))
        return head(queries) if reading.answers.is_floating_point() else self.factor("scale") * head(queries)

    def adaptation(self, episodes: EpisodesConfig) -> Adaptation:
        return Ridge(penalty=float(self.factor("penalty").detach()), scale=float(self.factor("scale").detach()))
