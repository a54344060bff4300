"""The trained encoder beside the untouched one: what training has made them forget is still there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mtl.model.encoded import Encoded
from mtl.model.encoder import Encoder


class BesideUntouched(Encoder):
    """Reads with two encoders: every vector is the trained one's beside the untouched one's, each of length 1.

    The mean of two models' cosines, as an ensemble has it. Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"
    (arXiv:2109.01903), have the same aim with one encoder, by the mean of weights; two passes keep more of both.

    Args:
        trained: The encoder that was trained.
        untouched: As it was before; it is not changed by what is adapted.
    """

    def __init__(self, trained: Encoder, untouched: Encoder) -> None:
        super().__init__(trained.backbone, trained.tokenizer, trained.pooling, trained.precision, trained.token_dropout)
        self.adapters = trained.adapters
        self.untouched = untouched.eval().requires_grad_(False)

    @property
    def hidden(self) -> int:
        """Size of a state, of both together."""
        return super().hidden + self.untouched.hidden

    def copy(self) -> BesideUntouched:
        """Return the same with a trained encoder of its own weights."""
        return BesideUntouched(super().copy(), self.untouched)

    def forward(
        self, inputs: Mapping[str, Tensor], states: Tensor | None = None, depth: int = 0, owners: Sequence[str] | None = None
    ) -> Encoded:
        """Encode a batch by both.

        Args:
            inputs: See :class:`mtl.data.batches.Batch`.
            states: See :meth:`Encoder.forward`; of the trained encoder.
            depth: Where the trunk of the trained encoder ended.
            owners: See :meth:`Encoder.forward`.
        """
        own = super().forward(inputs, states, depth, owners)
        with torch.no_grad():
            other = self.untouched(inputs)
        return Encoded(
            torch.cat([normalize(own.states, dim=-1), normalize(other.states, dim=-1)], dim=-1),
            own.mask,
            torch.cat([normalize(own.pooled, dim=-1), normalize(other.pooled, dim=-1)], dim=-1),
        )
