"""The encoder's vocabulary, for kinds that predict or write tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from mtl.errors import EncoderError
from mtl.metrics import Array


class Vocabulary:
    """The tokens that an encoder reads, by number.

    Args:
        backend: The ``PreTrainedTokenizerFast``.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    @cached_property
    def size(self) -> int:
        """How many tokens there are."""
        return len(self._backend)

    @property
    def mask(self) -> int:
        """The token that stands for a hidden one.

        Raises:
            EncoderError: If the encoder has none.
        """
        return self._special("mask_token_id", "hides")

    @property
    def mask_text(self) -> str:
        """How the mask is written in a text."""
        return str(self._backend.convert_ids_to_tokens(self.mask))

    @property
    def start(self) -> int:
        """The token that sequences start with.

        Raises:
            EncoderError: If the encoder has none.
        """
        return self._special("cls_token_id", "starts") if self._backend.bos_token_id is None else int(self._backend.bos_token_id)

    @property
    def end(self) -> int:
        """The token that sequences end with.

        Raises:
            EncoderError: If the encoder has none.
        """
        return self._special("sep_token_id", "ends") if self._backend.eos_token_id is None else int(self._backend.eos_token_id)

    @cached_property
    def special(self) -> Array:
        """The tokens that are no text, sorted."""
        return np.array(sorted(self._backend.all_special_ids), dtype=np.int64)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text, without those that start and end a sequence."""
        if not texts:
            return []
        self._backend.backend_tokenizer.no_truncation()
        found: list[list[int]] = self._backend(list(texts), add_special_tokens=False)["input_ids"]
        return found

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without those that are no text."""
        return str(self._backend.decode(list(tokens), skip_special_tokens=True))

    def _special(self, name: str, does: str) -> int:
        found = getattr(self._backend, name)
        if found is None:
            raise EncoderError(f"The encoder's tokenizer has no token that {does} a sequence or a word. Use another encoder.")
        return int(found)
