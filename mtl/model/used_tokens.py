"""Training the embeddings of the tokens that texts have, and leaving the others alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mtl.metrics import Array

if TYPE_CHECKING:
    from mtl.model.encoder import Encoder

#: With a larger share of the vocabulary in use there is little to gain.
_MOST = 0.9
_PART = 2**22


class UsedTokens(nn.Module):
    """Embeddings of some tokens, to be trained; those of the others are read where they are asked for, and stay as they are.

    AdamW goes through every weight at every step, and the gradient of a table is as large as the table, though a step reads
    few of its rows. Tokens that no training text has get no gradient; all that is not done for them is to shrink them by
    weight decay.

    Args:
        whole: The table.
        tokens: Those to be trained, ``[used]``, each once.
    """

    def __init__(self, whole: nn.Embedding, tokens: Tensor) -> None:
        super().__init__()
        self._whole = (whole,)  # in a tuple, so that it is none of the parameters
        self.weight = nn.Parameter(whole.weight.detach()[tokens].clone())
        places = torch.full((whole.num_embeddings,), -1, device=whole.weight.device)
        places[tokens] = torch.arange(len(tokens), device=places.device)
        self.register_buffer("places", places, persistent=False)
        self.places: Tensor
        padding = -1 if whole.padding_idx is None else int(places[whole.padding_idx])
        self._padding = None if padding < 0 else padding

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the embeddings of tokens, ``[..., hidden]``."""
        places = self.places[tokens]
        known = places >= 0
        if not tokens.is_cuda and bool(known.all()):  # on a GPU to ask would be to wait
            return nn.functional.embedding(places, self.weight, self._padding)
        found = nn.functional.embedding(places.clamp(min=0), self.weight, self._padding)
        return torch.where(known.unsqueeze(-1), found, self._whole[0].weight.detach()[tokens])

    @torch.no_grad()
    def whole(self) -> nn.Embedding:
        """Return the whole table, with what was learned in it."""
        (table,) = self._whole
        trained = (self.places >= 0).nonzero().squeeze(-1)
        table.weight[trained] = self.weight[self.places[trained]]
        return table


def narrow(encoder: Encoder, tokens: Iterable[Array]) -> int:
    """Let only the embeddings of ``tokens`` be trained, if that saves something and the table is a plain one of its own.

    Args:
        encoder: The encoder; it is changed until :func:`widen` is called.
        tokens: Token ids, in arrays of one dimension; they may be on disk.

    Returns:
        How many weights are left alone.
    """
    table = encoder.backbone.get_input_embeddings()
    plain = type(table) is nn.Embedding and table.max_norm is None and not (table.scale_grad_by_freq or table.sparse)
    if not plain or not table.weight.requires_grad:
        return 0
    if sum(parameter is table.weight for _, parameter in encoder.named_parameters(remove_duplicate=False)) != 1:
        return 0  # another part has the same weights
    used = np.zeros(table.num_embeddings, dtype=bool)
    used[encoder.tokenizer.pad_id] = True
    for ids in tokens:
        for start in range(0, len(ids), _PART):
            used[np.asarray(ids[start : start + _PART])] = True
    if used.mean() > _MOST:
        return 0
    made = UsedTokens(table, torch.from_numpy(used.nonzero()[0]).to(table.weight.device)).train(table.training)
    encoder.backbone.set_input_embeddings(made)
    return int(table.weight.numel() - made.weight.numel())


def widen(encoder: Encoder) -> None:
    """Put the whole table back, if :func:`narrow` has taken it out."""
    made = encoder.backbone.get_input_embeddings()
    if isinstance(made, UsedTokens):
        encoder.backbone.set_input_embeddings(made.whole())
