"""What the encoder gives: states of tokens, and how they become one vector a sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

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
        embeddings: What the encoder reads tokens by, ``[vocabulary, hidden]``, for heads that share it.
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
            EncoderError: If they are not of the size of its states.
        """
        if self._embeddings is None or self._embeddings.shape[1] != self._states.shape[-1]:
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


_GROUP_ROWS, _GROUP_SHARE, _WASTE = 8, 0.7, 0.25


def groups_by_length(mask: Tensor) -> list[tuple[Tensor, int]] | None:
    """Part a batch of very different lengths into groups of similar ones: their rows, and the longest of each.

    Most of the work on such a batch would be padding. On a GPU a batch is left whole: there reading the lengths would
    cost more than it saves.
    """
    if mask.device.type != "cpu" or len(mask) < 2 * _GROUP_ROWS:
        return None
    lengths = mask.sum(1)
    if float(lengths.sum()) > (1 - _WASTE) * mask.numel():
        return None
    order = lengths.argsort(descending=True, stable=True)
    ordered = lengths[order].tolist()
    starts = [0]
    for place, length in enumerate(ordered):
        if place - starts[-1] >= _GROUP_ROWS and length < _GROUP_SHARE * ordered[starts[-1]]:
            starts.append(place)
    return [(order[start:end], ordered[start]) for start, end in zip(starts, [*starts[1:], len(ordered)], strict=True)]
