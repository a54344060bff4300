"""Prototypes that the queries of an episode draw nearer: soft k-means, which is transductive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import one_hot

from mtl.data.episodes import EpisodeRows
from mtl.errors import ConfigError
from mtl.meta.closed_form import class_means, unknown
from mtl.transfer.adaptation import LinearPredictor, Predictor, refuse_values
from mtl.transfer.space import Space
from mtl_plugins.prototype import NEAREST, Prototype


@dataclass
class SoftKMeans(Prototype):
    """Start from nearest prototypes, then count each query as a row of every class, by how likely it is of that class.

    Ren et al. 2018, "Meta-Learning for Semi-Supervised Few-Shot Classification" (arXiv:1803.00676), section 3.1.1, with the
    texts of the queries as the rows without labels: transductive, all queries of an episode are answered together. Figures are
    to be compared with those of transductive methods, and not with those of methods that answer each query by itself: that an
    episode has as many queries of each class, which nothing in use promises, helps here (Veilleux et al. 2021, arXiv:2204.11181).

    Args:
        metric: See ``prototype``.
        scale: See ``prototype``; the larger, the surer a query is taken to be of its nearest class.
        name_weight: See ``prototype``.
        steps: How often the prototypes are made again; the paper has one.
    """

    transductive: ClassVar[bool] = True
    steps: Annotated[int, Field(ge=1)] = 10

    def adapt(self, space: Space, episode: EpisodeRows) -> Predictor:
        features, answers, names = self.given(space, episode)
        refuse_values(answers, "soft-k-means")
        if not episode.query:
            raise ConfigError(
                "Adaptation 'soft-k-means' learns from the rows that it will be asked as well, all together, and here there are "
                "none. Take prototype."
            )
        queries = space.features[list(episode.query)].flatten(0, -2)
        queries = queries[queries.any(-1)]  # places without a word have zeros
        own, layer = one_hot(answers, len(space.outputs(episode))).to(features.dtype), NEAREST[self.metric]
        means, together = class_means(features, own, names), torch.cat([features, queries])
        head, known = layer(means, self.scale), ~unknown(means)
        for _ in range(self.steps):
            shares = torch.cat([own, head(queries).softmax(-1) * known])  # nothing is drawn to a class that nothing stands for
            head = layer(class_means(together, shares, names), self.scale)
        return LinearPredictor(space, head)
