"""Heads that several kinds share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mtl.model.encoder import Encoded

_INITIAL_STD = 0.02  # as BERT's own heads (Devlin et al. 2019, arXiv:1810.04805)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=_INITIAL_STD)
    nn.init.zeros_(layer.bias)
    return layer


class PooledHead(nn.Module):
    """A linear layer on the pooled vector, ``[rows, hidden]`` → ``[rows, outputs]``.

    A row of two sequences u, v is read as ``[u, v, |u − v|, u · v, cos(u, v)]``: the features of InferSent (Conneau
    et al. 2017, arXiv:1705.02364) and the similarity of Sentence-BERT (Reimers & Gurevych 2019, arXiv:1908.10084).

    Args:
        hidden: Size of the encoder's states.
        outputs: How many numbers a row gets.
        sequences: Sequences a row, 1 or 2.
        dropout: Before the layer.
    """

    def __init__(self, hidden: int, outputs: int, *, sequences: int = 1, dropout: float = 0.1) -> None:
        super().__init__()
        self.sequences = sequences
        self.dropout = nn.Dropout(dropout)
        self.linear = _linear(hidden if sequences == 1 else 4 * hidden + 1, outputs)

    def forward(self, encoded: Encoded, columns: Mapping[str, Tensor]) -> Tensor:
        """Return ``[rows, outputs]``."""
        features = encoded.pooled
        if self.sequences == 2:
            u, v = features[0::2], features[1::2]
            cosine = nn.functional.cosine_similarity(u, v, dim=-1).unsqueeze(-1)
            features = torch.cat([self.dropout(torch.cat([u, v, (u - v).abs(), u * v], dim=-1)), cosine], dim=-1)
        else:
            features = self.dropout(features)
        output: Tensor = self.linear(features)
        return output


class WordHead(nn.Module):
    """A linear layer on the first token of each word, ``[rows, words, outputs]``.

    Args:
        hidden: Size of the encoder's states.
        outputs: How many numbers a word gets.
        dropout: Before the layer.
    """

    def __init__(self, hidden: int, outputs: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = _linear(hidden, outputs)

    def forward(self, encoded: Encoded, columns: Mapping[str, Tensor]) -> Tensor:
        """Return ``[rows, words, outputs]``; what stands at words without a token means nothing."""
        states = encoded.states
        first = columns["words"].long().clamp(min=0).unsqueeze(-1).expand(-1, -1, states.shape[-1])
        output: Tensor = self.linear(self.dropout(states.gather(1, first)))
        return output
