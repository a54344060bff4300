"""Heads that several kinds share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mtl.model.encoded import Encoded

#: What u and v count beside |u − v|, u · v and the cosine, where features are of length 1: two texts are unlike another two
#: in what they are about, which says little of how the two of a pair stand to each other (docs/protocol.md has figures).
_OWN_SHARE = 0.5
_INITIAL_STD = 0.02  # as BERT's own heads (Devlin et al. 2019, arXiv:1810.04805)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=_INITIAL_STD)
    nn.init.zeros_(layer.bias)
    return layer


def by_row(values: Tensor, counts: Tensor) -> Tensor:
    """Put the values of all rows' sequences, ``[sequences, ...]``, into rows, ``[rows, most, ...]``, filled by −∞."""
    there = torch.arange(int(counts.max()), device=values.device) < counts.unsqueeze(1)
    filled = values.new_full((*there.shape, *values.shape[1:]), -math.inf)
    return filled.masked_scatter(there.view(*there.shape, *[1] * (values.dim() - 1)), values)


class LinearHead(nn.Module, ABC):
    """A linear layer on features of the encoded rows.

    In an episode the same features are read by a layer made from the support, so a kind with such a head can be
    learned from a few examples.

    Args:
        features: How many numbers describe what is answered.
        outputs: How many numbers an answer gets.
        dropout: Before the layer.

    Attributes:
        unit: Whether features are brought to length 1, as for layers that were made from a support.
    """

    def __init__(self, features: int, outputs: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = _linear(features, outputs)
        self.unit = False

    @abstractmethod
    def features(self, encoded: Encoded, columns: Mapping[str, Tensor], *, unit: bool = False) -> Tensor:
        """Return the features, ``[rows, ..., features]``; of length 1, and their parts too, if ``unit``."""

    def forward(self, encoded: Encoded, columns: Mapping[str, Tensor]) -> Tensor:
        """Return ``[rows, ..., outputs]``."""
        output: Tensor = self.linear(self.dropout(self.features(encoded, columns, unit=self.unit)))
        return output


class PooledHead(LinearHead):
    """A linear layer on the pooled vector, ``[rows, hidden]`` → ``[rows, outputs]``.

    A row of two sequences u, v is read as ``[u, v, |u − v|, u · v, cos(u, v)]``: the features of InferSent (Conneau
    et al. 2017, arXiv:1705.02364) and the similarity of Sentence-BERT (Reimers & Gurevych 2019, arXiv:1908.10084). Of features
    of length 1, u and v are halved.

    Args:
        hidden: Size of the encoder's states.
        outputs: How many numbers a row gets.
        sequences: Sequences a row, 1 or 2.
        dropout: Before the layer; the cosine is spared.
    """

    def __init__(self, hidden: int, outputs: int, *, sequences: int = 1, dropout: float = 0.1) -> None:
        super().__init__(hidden if sequences == 1 else 4 * hidden + 1, outputs, dropout=dropout)
        self.sequences = sequences

    def features(self, encoded: Encoded, columns: Mapping[str, Tensor], *, unit: bool = False) -> Tensor:
        """Return ``[rows, features]``."""
        pooled = normalize(encoded.pooled, dim=-1) if unit else encoded.pooled
        if self.sequences == 1:
            return pooled
        u, v = pooled[0::2], pooled[1::2]
        cosine = nn.functional.cosine_similarity(u, v, dim=-1).unsqueeze(-1)
        own = _OWN_SHARE if unit else 1.0
        features = torch.cat([own * u, own * v, (u - v).abs(), u * v, cosine], dim=-1)
        return normalize(features, dim=-1) if unit else features

    def forward(self, encoded: Encoded, columns: Mapping[str, Tensor]) -> Tensor:
        """Return ``[rows, outputs]``."""
        features = self.features(encoded, columns, unit=self.unit)
        if self.sequences == 1:
            features = self.dropout(features)
        else:
            features = torch.cat([self.dropout(features[:, :-1]), features[:, -1:]], dim=-1)
        output: Tensor = self.linear(features)
        return output


class WordHead(LinearHead):
    """A linear layer on the first token of each word, ``[rows, words, outputs]``.

    What stands at words without a token means nothing.
    """

    def features(self, encoded: Encoded, columns: Mapping[str, Tensor], *, unit: bool = False) -> Tensor:
        """Return ``[rows, words, hidden]``."""
        states = encoded.states
        first = columns["words"].long().clamp(min=0).unsqueeze(-1).expand(-1, -1, states.shape[-1])
        found = states.gather(1, first)
        return normalize(found, dim=-1) if unit else found
