"""Low-rank updates of an encoder's attention layers (Hu et al. 2022, arXiv:2106.09685), by `peft`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mtl.errors import EncoderError

#: Is in the name of every such weight.
LORA = "lora_"
LORA_FILE = "lora.safetensors"


def add_lora(backbone: Any, rank: int, weights: Path | None = None) -> None:
    """Put low-rank updates into the attention layers; they change nothing until they are trained.

    Args:
        backbone: The ``AutoModel``.
        rank: Their rank; they are scaled by 1.
        weights: A file of weights that an encoder has written.

    Raises:
        EncoderError: If `peft` is not installed, or does not know the architecture.
    """
    trained = {id(parameter) for parameter in backbone.parameters() if parameter.requires_grad}
    try:
        from peft import LoraConfig, inject_adapter_in_model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rank)  # the same start in every run
            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank), backbone)
    except ImportError as error:
        raise EncoderError("encoder.lora needs the package peft: pip install 'mtl[lora]'.") from error
    except ValueError as error:
        name = type(backbone).__name__
        raise EncoderError(f"encoder.lora: peft does not know where to put LoRA weights in a {name}.") from error
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(LORA in name or id(parameter) in trained)
    if weights is not None and weights.is_file():
        backbone.load_state_dict(load_file(weights), strict=False)


def without_lora(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Part a state into that of the plain encoder, and the low-rank weights."""
    own = {name: value.detach().cpu().contiguous() for name, value in state.items() if LORA in name}
    return {name.replace(".base_layer", ""): value for name, value in state.items() if LORA not in name}, own
