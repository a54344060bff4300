"""A tiny random encoder for checks: made in a moment, of the words that a task has."""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_MOST_WORDS = 2000


def words_of(value: Any) -> Iterator[str]:
    """Yield the words of all texts in a value, however deep they are."""
    if isinstance(value, str):
        yield from value.lower().split()
    elif isinstance(value, dict):
        for item in value.values():
            yield from words_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from words_of(item)


def tiny_encoder(folder: Path, words: Iterable[str] = (), *, hidden: int = 32, layers: int = 2) -> Path:
    """Write a random BERT of two layers, without dropout, in the Hub's layout.

    Args:
        folder: Where to write it.
        words: Words that are tokens of their own; others are spelled.
        hidden: Size of its states.
        layers: How many layers.
    """
    from transformers import BertConfig, BertModel, BertTokenizerFast, utils

    utils.logging.disable_progress_bar()

    signs = string.ascii_lowercase + string.digits + string.punctuation
    whole = list(dict.fromkeys(words))[:_MOST_WORDS]
    vocabulary = list(dict.fromkeys([*_SPECIAL, *signs, *(f"##{sign}" for sign in signs), *whole]))
    folder.mkdir(parents=True, exist_ok=True)
    BertTokenizerFast(vocab={token: number for number, token in enumerate(vocabulary)}, do_lower_case=True).save_pretrained(
        folder
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=2 * hidden,
            max_position_embeddings=512,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder
