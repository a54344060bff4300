"""A mix of all layers, with weights of a task's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScalarMix(nn.Module):
    """A weighted mean of what all layers give, scaled; the weights are trained.

    Peters et al. 2018, "Deep Contextualized Word Representations" (arXiv:1802.05365, equation 1). The embeddings' output counts
    as a layer. At first all weights are the same.

    Args:
        layers: How many there are, the embeddings' included.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(layers))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, layers: Tensor) -> Tensor:
        """Mix ``[sequences, tokens, layers * hidden]`` to ``[sequences, tokens, hidden]``."""
        weights = self.scale * self.scores.softmax(0)
        mixed: Tensor = torch.einsum("stlh,l->sth", layers.view(*layers.shape[:2], len(weights), -1), weights)
        return mixed
