"""SMLMT: which word was hidden, as a classification made from unlabelled text, above all for episodes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from mtl.data.features import Columns, Features, Tokenized
from mtl.data.rows import Rows
from mtl.errors import DataError
from mtl.kind import Batch, Request
from mtl.metrics import CLASSIFICATION, Array, Outcome
from mtl.task import Frozen
from mtl_tasks.classification import Classification

_WORD = re.compile(r"\w+")
_NO_WORD = -100


class SMLMTOptions(Frozen):
    """Options of SMLMT.

    Args:
        fewest: Rows of train that a word must be in to be a class.
        most: Share of the rows of train that it may be in at most; what is in more is no word to be known by.
        classes: The most classes; those in most rows are kept.
    """

    fewest: Annotated[int, Field(ge=2)] = 20
    most: Annotated[float, Field(gt=0, le=1)] = 0.05
    classes: Annotated[int, Field(ge=2)] = 2000


class SMLMT(Classification):
    """The word that a text hides, of those that enough texts have; a unit is a row that hides one.

    "Subset masked language modelling tasks" of Bansal et al. 2020 (arXiv:2009.08445, section 3.1): an episode of N ways is N
    words, its support and queries are texts in which the word is masked everywhere. A text stands for the rarest of its
    words that is a class, so that frequent words do not take the texts of rare ones.
    """

    roles = {"text": True}
    target_roles = frozenset()
    metrics = tuple(metric for metric in CLASSIFICATION if metric.name in ("accuracy", "macro_f1"))
    Options = SMLMTOptions

    @classmethod
    def sample(cls) -> dict[str, Any]:
        pairs = [("cat", "mat"), ("dog", "sofa"), ("boy", "chair"), ("bird", "roof")]
        rows = [{"text": f"the {a} {verb} on the {b} {verb}"} for a, b in pairs for verb in ("sat", "slept")]
        return {"data": rows, "options": {"fewest": 2, "most": 0.5}}

    def fit(self, rows: Rows) -> None:
        texts = rows.texts("text", max_words=self.task.max_words)
        counts = Counter(word for text in texts for word in set(_words(text)))
        limit = self.options.most * len(texts)
        kept = [(word, count) for word, count in counts.items() if self.options.fewest <= count <= limit]
        kept.sort(key=lambda item: (-item[1], item[0]))
        self._labels = tuple(word for word, _ in kept[: self.options.classes])  # from the most frequent to the rarest
        if len(self._labels) < 2:
            raise DataError(
                f"Task {self.task.name!r}: {rows.source} has {len(self._labels)} words that are in {self.options.fewest} to "
                f"{limit:g} of its {len(texts)} rows; two are needed. Give more rows, or change the options fewest and most."
            )
        ranks = self._ranks()
        assigned = Counter(filter(None, (_word_of(text, ranks) for text in texts)))
        self._majority = max(sorted(assigned), key=lambda word: assigned[word])

    def requests(self, rows: Rows) -> list[Request]:
        """Return texts with their word masked; a text that has a mask already is read as it is."""
        mask, ranks = self.vocabulary.mask_text, self._ranks()
        requests: list[Request] = []
        for text in rows.texts("text", max_words=self.task.max_words):
            word = None if mask in text else _word_of(text, ranks)
            parts = re.split(r"(\w+)", text)
            requests.append("".join(mask if part.lower() == word else part for part in parts))
        return requests

    def targets(self, rows: Rows, tokenized: Tokenized) -> Columns:
        ranks = self._ranks()
        words = [_word_of(text, ranks) for text in rows.texts("text")]
        return {"label": np.array([ranks.get(word or "", _NO_WORD) for word in words], dtype=np.int64)}

    def units(self, batch: Batch, rows: int) -> int:
        return int((batch["label"] >= 0).sum())

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        total = nn.functional.cross_entropy(outputs, batch["label"], ignore_index=_NO_WORD, reduction="sum")
        return total / (batch["label"] >= 0).sum().clamp(min=1)

    def gold(self, features: Features) -> list[Any]:
        """Return the hidden words; ``None`` for a row that hides none."""
        return [None if number < 0 else self._labels[number] for number in features.columns["label"]]  # type: ignore[union-attr]

    def classes_of(self, features: Features) -> list[Any]:
        return [() if number < 0 else (int(number),) for number in features.columns["label"]]  # type: ignore[union-attr]

    def name_requests(self) -> None:
        """A word is not to be read where it is to be guessed."""

    def outcome(self, features: Features, predicted: Sequence[Any], scores: Array | None) -> Outcome:
        gold = self.gold(features)
        rows = [row for row, word in enumerate(gold) if word is not None]
        return Outcome([gold[row] for row in rows], [predicted[row] for row in rows], None, self._labels)

    def _ranks(self) -> dict[str, int]:
        return {word: rank for rank, word in enumerate(self._labels)}


def _word_of(text: str, ranks: Mapping[str, int]) -> str | None:
    """Return the rarest word of a text that is a class."""
    return max((word for word in _words(text) if word in ranks), key=ranks.__getitem__, default=None)


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]
