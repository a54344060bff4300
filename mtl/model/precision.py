"""How a pass of the encoder is computed: in which precision, and attention by which kernels."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad

from mtl.errors import ConfigError

_LOG = logging.getLogger(__name__)
Precision = Literal["fp32", "bf16", "auto"]
_MOST = 4  # what a batch is padded to multiples of, at most
_LARGE = 256  # tokens of a batch from which it is padded less


@cache
def has_bfloat16(device: torch.device) -> bool:
    """Tell whether the processor multiplies in bfloat16 faster than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def in_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Tell whether a pass is computed in bfloat16."""
    return precision == "bf16" or (precision == "auto" and has_bfloat16(device))


def check_precision(precision: Precision, device: torch.device) -> None:
    """Check that a device can do what is asked for. A CPU without bfloat16 can, slowly; it is warned of.

    Raises:
        ConfigError: If a GPU does not multiply in bfloat16.
    """
    if precision != "bf16" or has_bfloat16(device):
        return
    if device.type == "cuda":
        raise ConfigError(
            f"encoder.precision: bf16 is asked for, but the device {device} does not multiply in bfloat16 (NVIDIA GPUs do from "
            "Ampere on). Use auto, which takes it where it is there, or fp32."
        )
    _LOG.warning("encoder.precision: this processor has no bfloat16; it is emulated, slower than fp32. auto would take fp32.")


@contextmanager
def attention_by_products() -> Iterator[None]:
    """Compute attention by matrix products, not by the fused kernels, which have no second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute the encoder in a precision."""
    with torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16(precision, device)):
        yield


def round_shape(
    inputs: Mapping[str, Tensor], states: Tensor | None, precision: Precision
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Pad a batch to multiples of 4 sequences and 4 tokens, of less where that would be much, if a pass is in bfloat16 on a CPU.

    There a kernel is compiled, and kept in memory, for every new shape of a product; batches of texts have hundreds of
    shapes. In a large batch padding soon takes longer than compiling: of 256 tokens or more, its sequences are padded to
    multiples of 2 below 64 tokens and not at all below 32. An added sequence has one token, so that its attention is defined.

    Args:
        inputs: ``[sequences, tokens]`` each.
        states: ``[sequences, tokens, hidden]``, or ``None``.
        precision: Of the pass.
    """
    mask = inputs["attention_mask"]
    rows = -mask.shape[0] % _multiple(mask.shape[0], 2)  # adds a third at most
    tokens = -mask.shape[1] % (_MOST if mask.numel() < _LARGE else _multiple(mask.shape[1], 5))
    if not (rows or tokens) or mask.device.type != "cpu" or not in_bfloat16(precision, mask.device):
        return dict(inputs), states
    padded = {name: pad(value, (0, tokens, 0, rows)) for name, value in inputs.items()}
    padded["attention_mask"][mask.shape[0] :, 0] = 1
    return padded, None if states is None else pad(states, (0, 0, 0, tokens, 0, rows))


def _multiple(size: int, bits: int) -> int:
    """Return what a size is padded to multiples of: 1 up to ``bits`` binary digits, then 2, then 4."""
    return min(_MOST, 1 << max(0, size.bit_length() - bits))
