"""Contrastive fine-tuning on the support, and logistic regression on what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mtl.data.episodes import EpisodeRows
from mtl.meta.scope import scope_of
from mtl.model.encoder import Encoder
from mtl.transfer.adaptation import Adaptation, Predictor, refuse_values
from mtl.transfer.fine_tuning import Count, MovedSupport, Positive
from mtl.transfer.space import Space, units
from mtl_plugins.logistic import Logistic

_FEWEST_STEPS, _MOST_STEPS = 8, 20
_LAYERS_FOR_TWO_CLASSES = 2


@dataclass
class Contrastive(Adaptation):
    """Draw rows of a class together and those of different classes apart, then fit a logistic regression.

    Tunstall et al. 2022, "Efficient Few-Shot Learning Without Prompts" (SetFit, arXiv:2209.11055, section 3): the squared
    error of the cosine of two rows to 1 where they are of a class, else to 0, pairs of both sorts counting alike. Where they
    encode every pair that they draw, a step here encodes each row of the support once, and has all its pairs in the loss.

    Args:
        steps: Steps of AdamW, each on the whole support. Default: two for five of its rows, at least 8 and at most 20.
        rate: Its learning rate, which falls to 0 in a line.
        layers: How many layers are trained, the last ones; those below run once. Default: two for a target of two classes, all
            for one of more.
        C: Inverse of the penalty of the logistic regression.

    The defaults were chosen on targets of LEOPARD, relations of SemEval-2010 and intents of SNIPS: two classes of few and noisy
    rows were told apart best by two of six layers, three and more classes by all.

    Raises:
        ConfigError: If the encoder has fewer layers than are asked for, or the target has values.
    """

    of_classes: ClassVar[bool] = True

    steps: Count | None = None
    rate: Positive = 2e-4
    layers: Annotated[int, Field(ge=1)] | None = None
    C: Positive = 10.0

    def check_encoder(self, encoder: Encoder) -> None:
        scope_of(encoder, "all" if self.layers is None else self.layers)

    def adapt(self, space: Space, episode: EpisodeRows) -> Predictor:
        answers = space.answers(episode)
        refuse_values(answers, "contrastive")
        outputs, depth = len(space.outputs(episode)), len(space.encoder.layers())
        layers = self.layers or (min(_LAYERS_FOR_TWO_CLASSES, depth) if outputs == 2 else depth)
        support = MovedSupport(space, episode, layers)
        optimizer = torch.optim.AdamW(support.parameters.values(), lr=self.rate, weight_decay=0.0)
        steps = self.steps or min(max(2 * len(episode.support) // 5, _FEWEST_STEPS), _MOST_STEPS)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
        with torch.enable_grad():
            for _ in range(steps):
                optimizer.zero_grad()
                torch.autograd.backward(pair_loss(*units(support.read(), answers)))
                optimizer.step()
                schedule.step()
        with torch.no_grad():
            features, places = units(support.read(), answers)
        if not bool(features.isfinite().all()):
            raise support.diverged()
        return support.predictor(Logistic(self.C).fit(features, places, outputs, None))


def pair_loss(features: Tensor, answers: Tensor) -> Tensor:
    """Return the mean squared error over pairs of a class, and over pairs of two, and the mean of both, ``[]``.

    Args:
        features: ``[units, features]``, of length 1.
        answers: The class of each unit, ``[units]``.
    """
    first, second = torch.triu_indices(len(answers), len(answers), 1, device=answers.device)
    cosines, alike = (features @ features.T)[first, second], answers[first] == answers[second]
    parts = [(cosines[chosen] - target).square().mean() for chosen, target in ((alike, 1.0), (~alike, 0.0)) if chosen.any()]
    return torch.stack(parts).mean() if parts else 0.0 * features.sum()
