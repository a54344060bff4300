"""A vocabulary of its own for texts that are written, for languages that the encoder's does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SPECIAL = ["[PAD]", "[START]", "[END]", "[UNK]"]


class Subwords:
    """Byte-pair encoding with blanks as a sign of their own, so that what is encoded can be decoded to the letter.

    Args:
        text: What :meth:`text` gave.
    """

    def __init__(self, text: str) -> None:
        from tokenizers import Tokenizer

        self.text = text
        self._backend: Any = Tokenizer.from_str(text)
        self.size: int = self._backend.get_vocab_size()
        self.start, self.end = _SPECIAL.index("[START]"), _SPECIAL.index("[END]")  # special tokens come first

    @classmethod
    def learn(cls, texts: Sequence[str], size: int) -> Subwords:
        """Learn at most ``size`` tokens from texts (Sennrich et al. 2016, arXiv:1508.07909)."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        backend: Any = Tokenizer(models.BPE(unk_token=_SPECIAL[3]))
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
        backend.decoder = decoders.Metaspace()
        backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, special_tokens=_SPECIAL, show_progress=False))
        return cls(backend.to_str())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text."""
        return [encoding.ids for encoding in self._backend.encode_batch(list(texts))]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return str(self._backend.decode(list(tokens)))
