"""Attention and dropout of training on CPUs, where those of PyTorch wait for random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_STEPS = 1 << 16
_ONE = 0x3F80  # the bits of 1.0 in bfloat16


class Dropout(nn.Dropout):
    """:class:`torch.nn.Dropout` with :func:`drop`."""

    def forward(self, values: Tensor) -> Tensor:
        """Return the values, in training with a share of them set to 0."""
        return drop(values, self.p) if self.training else values


def drop(values: Tensor, share: float) -> Tensor:
    """Set a share of values to 0 and scale the others up (Srivastava et al. 2014), the share rounded to 1 / 65,536.

    On a CPU 16 bits of PyTorch's generator decide on a value: ``torch.dropout`` draws a number for each, in one thread, which
    takes several times as long.
    """
    steps = round(share * _STEPS)
    if not 0 < steps < _STEPS or values.device.type != "cpu" or torch.compiler.is_compiling():
        return nn.functional.dropout(values, share)
    count = values.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(1 << 63), None).view(torch.int16)[:count]
    least = steps - _STEPS // 2
    # 1 where the bits are as much, else 0, and then the same as numbers. A comparison's bytes take twice as long, in bfloat16.
    ones = bits.clamp_(least - 1, least).sub_(least - 1).mul_(_ONE).view(torch.bfloat16)
    kept = ones.to(values.dtype).mul_(_STEPS / (_STEPS - steps))
    return values * kept.view(values.shape)


def attend(
    fused: Callable[..., tuple[Tensor, Tensor | None]],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend by matrix products where PyTorch's fused kernel would not do, else by that kernel.

    For CPUs that kernel has no dropout, and it is slow on the way back in bfloat16. What PyTorch computes instead is in
    float32, and looks for rows that see nothing, which an encoder's do not.

    Args:
        fused: The attention function of transformers (``sdpa``) that is called with the rest.
        module: The layer.
        query: ``[sequences, heads, tokens, size]``, as ``key`` and ``value``, which may be of more tokens.
        key: See there.
        value: See there.
        attention_mask: ``True`` for what is seen, or what is added to the scores; broadcast to
            ``[sequences, heads, tokens, tokens]``.
        dropout: Of the weights.
        scaling: Of the scores. Default: size ** -0.5.
        options: What else transformers tells its attention functions.

    Returns:
        ``[sequences, tokens, heads, size]``, and no weights.
    """
    by_products = query.device.type == "cpu" and torch.is_grad_enabled() and (dropout > 0 or query.dtype is torch.bfloat16)
    plain = key.shape[:2] == query.shape[:2] and not getattr(module, "is_causal", False)
    if not (by_products and plain) or torch.compiler.is_compiling():
        return fused(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options)
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(-1, -2)
    if attention_mask is not None and attention_mask.dtype is torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = drop(scores.softmax(-1), dropout)
    return (weights.to(value.dtype) @ value).transpose(1, 2), None
