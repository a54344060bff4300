"""What the encoder gives: states of tokens, and how they become one vector a sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from mtl.errors import EncoderError


@dataclass(frozen=True)
class Layers:
    """What every layer gave of a batch, for heads that read a mix of them.

    Args:
        states: ``[sequences, tokens, layers * hidden]``.
        mask: 1 for tokens that are pooled, ``[sequences, tokens]``.
        pool: Makes one vector of a sequence's states under a mask.
    """

    states: Tensor
    mask: Tensor
    pool: Callable[[Tensor, Tensor], Tensor]


class Encoded:
    """What the encoder says of one task's sequences in a batch.

    Args:
        states: Token states of the whole batch, ``[sequences, tokens, hidden]``.
        mask: 1 for tokens, 0 for padding, ``[sequences, tokens]``.
        pooled: One vector a sequence, ``[sequences, hidden]``.
        index: The task's sequences, ``[rows * sequences]``; ``None`` for all.
        counts: Sequences of each row, ``[rows]``, where rows differ in that.
        embeddings: What the encoder reads tokens by, ``[vocabulary, hidden]``, for heads that share it (see
            :attr:`mtl.TaskKind.reads_embeddings`).
        layers: What every layer gave, where heads read a mix of them.
    """

    def __init__(
        self,
        states: Tensor,
        mask: Tensor,
        pooled: Tensor,
        index: Tensor | None = None,
        counts: Tensor | None = None,
        embeddings: Tensor | None = None,
        layers: Layers | None = None,
    ) -> None:
        self._states, self._mask, self._pooled, self._index = states, mask, pooled, index
        self.counts, self._embeddings, self._layers = counts, embeddings, layers

    def of(self, index: Tensor | None, counts: Tensor | None = None) -> Encoded:
        """Return the view of another task."""
        return Encoded(self._states, self._mask, self._pooled, index, counts, self._embeddings, self._layers)

    def mixed(self, mix: Callable[[Tensor], Tensor]) -> Encoded:
        """Return what is said where ``mix`` makes states of what every layer gave."""
        layers = self._layers
        assert layers is not None
        given, seen = layers.states, layers.mask
        if self._index is not None:
            given, seen = given[self._index], seen[self._index]
        states = mix(given)
        return Encoded(states, self.mask, layers.pool(states, seen), counts=self.counts, embeddings=self._embeddings)

    @property
    def embeddings(self) -> Tensor:
        """What the encoder reads tokens by, ``[vocabulary, hidden]``.

        Raises:
            EncoderError: If they are not of the size of its states, or the kind does not say that its head reads them.
        """
        if self._embeddings is None:
            raise EncoderError(
                "A head reads the encoder's embeddings, and its kind does not say so: let its property reads_embeddings be True."
            )
        if self._embeddings.shape[1] != self._states.shape[-1]:
            raise EncoderError(
                "This encoder's embeddings are not of the size of its states, so that no head can share them. "
                "Use another encoder for this task."
            )
        return self._embeddings

    @cached_property
    def states(self) -> Tensor:
        """Token states, ``[rows * sequences, tokens, hidden]``."""
        return self._states if self._index is None else self._states[self._index]

    @cached_property
    def mask(self) -> Tensor:
        """1 for tokens, 0 for padding, ``[rows * sequences, tokens]``."""
        return self._mask if self._index is None else self._mask[self._index]

    @cached_property
    def pooled(self) -> Tensor:
        """One vector a sequence, ``[rows * sequences, hidden]``."""
        return self._pooled if self._index is None else self._pooled[self._index]


def _pool_mean(states: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def _pool_cls(states: Tensor, mask: Tensor) -> Tensor:
    return states[:, 0]


def _pool_max(states: Tensor, mask: Tensor) -> Tensor:
    return states.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(1)


#: Name → how a sequence's states become one vector.
POOLING = {"mean": _pool_mean, "cls": _pool_cls, "max": _pool_max}


def by_length(
    mask: Tensor,
    inputs: Mapping[str, Tensor],
    states: Tensor | None,
    cost: int,
    run: Callable[[Mapping[str, Tensor], Tensor | None, Tensor | None], Tensor],
) -> Tensor:
    """Run a batch, in groups of similar lengths where that is cheaper than its padding, and return its rows in order.

    On a GPU a batch is left whole: there reading the lengths would cost more than it saves.

    Args:
        mask: 1 for tokens, 0 for padding, ``[sequences, tokens]``; ``inputs`` may have one that hides some of them.
        inputs: ``[sequences, tokens]`` each.
        states: What is known of them, ``[sequences, tokens, hidden]``, if anything is.
        cost: What a group takes beside its tokens, in tokens.
        run: From a group's inputs, its states and the numbers of its rows in order (``None``: all) to ``[rows, tokens, ...]``.
    """
    groups = _groups(mask, cost)
    if groups is None:
        return run(inputs, states, None)
    parts = []
    for rows, longest in groups:
        own = {name: value[rows, :longest] for name, value in inputs.items()}
        found = run(own, None if states is None else states[rows, :longest], rows)
        parts.append(nn.functional.pad(found, (0, 0, 0, mask.shape[1] - longest)))
    return torch.cat(parts)[torch.cat([rows for rows, _ in groups]).argsort()]


def _groups(mask: Tensor, cost: int) -> list[tuple[Tensor, int]] | None:
    """Part rows into groups of similar lengths: their numbers, and the longest of each; ``None`` if one is best.

    Of all ways to part the rows in order of length, the one that computes the fewest tokens, ``cost`` for each group among
    them. The best way for the shorter ones is part of the best way for all (dynamic programming, over different lengths).
    """
    if mask.device.type != "cpu":
        return None
    lengths = mask.sum(1)
    if mask.numel() - int(lengths.sum()) <= cost:
        return None
    longest, counts = np.unique(lengths.numpy(), return_counts=True)
    ends = np.concatenate([[0], counts.cumsum()])
    best, start = np.zeros(len(ends), int), np.zeros(len(ends), int)
    for end in range(1, len(ends)):
        tokens = best[:end] + longest[end - 1] * (ends[end] - ends[:end])
        start[end] = tokens.argmin()
        best[end] = tokens[start[end]] + cost
    order, groups, end = lengths.argsort(stable=True), [], len(longest)
    while end:
        rows = order[ends[start[end]] : ends[end]]
        groups.append((rows.sort().values, int(longest[end - 1])))
        end = start[end]
    return groups if len(groups) > 1 else None
