"""Masked language modelling: hidden words of a text, as a stage of its own or beside other tasks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

import mtl
from mtl.data.features import Columns, Features, Ragged, Tokenized
from mtl.data.rows import Rows
from mtl.kind import Batch, Request
from mtl.metrics import Array, Metric, Outcome
from mtl.model.encoded import Encoded
from mtl.task import Frozen

_NOTHING = -1
_PART_ROWS = 8192
_Share = Annotated[float, Field(ge=0, le=1)]


class MaskedLanguageModellingOptions(Frozen):
    """Options of masked language modelling.

    Args:
        masked: Share of the words, or tokens, that are to be predicted.
        whole_words: Whether all tokens of a word are hidden together.
        replaced: Share of what is to be predicted that shows the mask.
        random: Share that shows a random token; the rest is shown as it is.
    """

    masked: Annotated[float, Field(gt=0, lt=1)] = 0.15
    whole_words: bool = True
    replaced: _Share = 0.8
    random: _Share = 0.1

    @model_validator(mode="after")
    def _check_shares(self) -> MaskedLanguageModellingOptions:
        if self.replaced + self.random > 1:
            raise ValueError(f"replaced and random are at most 1 together (found {self.replaced:g} and {self.random:g})")
        return self


class MaskHead(nn.Module):
    """A transform and the encoder's own embeddings on the states of hidden tokens, ``[rows, hidden tokens, vocabulary]``.

    As in BERT (Devlin et al. 2019, arXiv:1810.04805), with embeddings tied (Press & Wolf 2017, arXiv:1608.05859).
    """

    def __init__(self, hidden: int, vocabulary: int, log_frequencies: Tensor) -> None:
        super().__init__()
        self.transform = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden))
        self.scale = nn.Parameter(torch.tensor(1 / math.sqrt(hidden)))
        self.bias = nn.Parameter(log_frequencies.clone())  # so that training starts from how frequent tokens are
        assert len(self.bias) == vocabulary

    def forward(self, encoded: Encoded, columns: Mapping[str, Tensor]) -> Tensor:
        """Return the log-odds of every token at each hidden place."""
        states = encoded.states
        places = columns["places"].long().clamp(min=0).unsqueeze(-1).expand(-1, -1, states.shape[-1])
        read = self.transform(states.gather(1, places)) * self.scale
        scores: Tensor = nn.functional.linear(read, encoded.embeddings, self.bias)
        return scores


def _perplexity(outcome: Outcome) -> float:
    return math.exp(outcome.loss) if outcome.loss < 700 else math.inf


def _accuracy(outcome: Outcome) -> float:
    pairs = [pair for row in zip(outcome.gold, outcome.predicted, strict=True) for pair in zip(*row, strict=True)]
    return sum(gold == answer for gold, answer in pairs) / len(pairs) if pairs else math.nan


class MaskedLanguageModelling(mtl.TaskKind):
    """The hidden tokens of a text, by softmax cross-entropy; a unit is a hidden token.

    Other tokens are hidden each time a text is read in training ("dynamic masking", Liu et al. 2019, arXiv:1907.11692); in
    validation and test they are always the same. Predicting, the mask of a text is filled in.
    """

    roles = {"text": True}
    target_roles = frozenset()
    metrics = (
        Metric("perplexity", _perplexity, higher_is_better=False, best=1.0),
        Metric("masked_accuracy", _accuracy),
    )
    Options = MaskedLanguageModellingOptions
    needs_words = True

    _counts: Counter[int] = Counter()

    @classmethod
    def sample(cls) -> dict[str, Any]:
        pairs = [("cat", "mat"), ("dog", "sofa"), ("boy", "chair"), ("bird", "roof")]
        return {"data": [{"text": f"the {a} {verb} on the {b}"} for a, b in pairs for verb in ("sat", "slept")]}

    @property
    def state(self) -> dict[str, Any]:
        return {"counts": [list(pair) for pair in sorted(self._counts.items())]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._counts = Counter(dict(state["counts"]))

    def fit(self, rows: Rows) -> None:
        self._counts = Counter(
            token
            for part in rows.in_parts(_PART_ROWS)
            for tokens in self.vocabulary.encode(part.texts("text", max_words=self.task.max_words))
            for token in tokens
        )

    def requests(self, rows: Rows) -> list[Request]:
        return [*rows.texts("text", max_words=self.task.max_words)]

    def alignment(self, tokenized: Tokenized) -> Columns:
        """Return where a text has a mask of its own, to be filled in."""
        mask = self.vocabulary.mask
        return {"places": Ragged.of([_where(tokenized.input_ids[row] == mask) for row in range(len(tokenized))], fill=_NOTHING)}

    def targets(self, rows: Rows, tokenized: Tokenized) -> Columns:
        for row in range(len(rows)):
            if np.isin(tokenized.input_ids[row], self.vocabulary.special).all():
                raise rows.error(row, "no token of the text is known to the encoder, so that none can be hidden. Remove the row.")
        nothing: list[list[int]] = [[]] * len(rows)
        return {"places": Ragged.of(nothing, fill=_NOTHING), "tokens": Ragged.of(nothing, fill=_NOTHING)}

    @property
    def reads_embeddings(self) -> bool:
        return True

    def redraw(self, features: Features, ids: Sequence[int], rng: np.random.Generator) -> Features:
        """Hide other tokens: 80 % of them behind the mask, 10 % behind a random token, as in BERT."""
        chosen = features.take(ids)
        tokens: Any = chosen.columns["tokens"]
        places: Any = chosen.columns["places"]
        shown, hidden, gold = [], [], []
        for row in range(len(chosen)):
            ids_of_row = chosen.tokenized.input_ids[row].copy()
            ids_of_row[places[row]] = tokens[row]
            where = self._choose(ids_of_row, chosen.tokenized.first_token[row], rng)
            hidden.append(where.tolist())
            gold.append(ids_of_row[where].tolist())
            shown.append(self._hide(ids_of_row, where, rng))
        inputs = replace(chosen.tokenized.input_ids, values=np.concatenate(shown))
        columns = {"places": Ragged.of(hidden, fill=_NOTHING), "tokens": Ragged.of(gold, fill=_NOTHING)}
        return replace(chosen, tokenized=replace(chosen.tokenized, input_ids=inputs), columns={**chosen.columns, **columns})

    def units(self, batch: Batch, rows: int) -> int:
        return int((batch["tokens"] >= 0).sum())

    def head(self, hidden: int) -> nn.Module:
        return MaskHead(hidden, self.vocabulary.size, torch.from_numpy(self._log_frequencies()))

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(outputs.flatten(0, 1), batch["tokens"].flatten(), ignore_index=_NOTHING)

    def gold(self, features: Features) -> list[list[str]]:
        tokens: Any = features.columns["tokens"]
        return [self._texts(tokens[row].tolist()) for row in range(len(features))]

    def decode(self, outputs: Tensor, batch: Batch) -> list[list[str]]:
        best, counts = outputs.argmax(-1).tolist(), (batch["places"] >= 0).sum(1).tolist()
        return [self._texts(tokens[:count]) for tokens, count in zip(best, counts, strict=True)]

    def trivial(self) -> list[str]:
        return self._texts([token for token, _ in self._counts.most_common(1)])

    def trivial_outcome(self, features: Features) -> Outcome:
        """Return the outcome of always giving the most frequent token; its loss is that of the tokens' frequencies."""
        gold, tokens = self.gold(features), np.asarray(features.columns["tokens"].values)  # type: ignore[union-attr]
        return Outcome(gold, [self.trivial() * len(row) for row in gold], loss=-float(self._log_frequencies()[tokens].mean()))

    def present(
        self, answer: Any, scores: Array | None, requests: Sequence[Request], batch: Mapping[str, Array]
    ) -> dict[str, Any]:
        return {"filled": answer}

    def _choose(self, tokens: Array, first: Array, rng: np.random.Generator) -> Array:
        """Return the places to be predicted: of whole words or of single tokens, at least one."""
        text = np.flatnonzero(~np.isin(tokens, self.vocabulary.special))
        starts = first[first >= 0] if self.options.whole_words else text
        groups = np.searchsorted(starts, text, side="right")
        names = np.unique(groups)
        count = max(1, round(self.options.masked * len(names)))
        places: Array = text[np.isin(groups, rng.choice(names, count, replace=False))]
        return places

    def _hide(self, tokens: Array, where: Array, rng: np.random.Generator) -> Array:
        shown = tokens.copy()
        dice = rng.random(len(where))
        shown[where[dice < self.options.replaced]] = self.vocabulary.mask
        strange = where[(dice >= self.options.replaced) & (dice < self.options.replaced + self.options.random)]
        shown[strange] = rng.integers(self.vocabulary.size, size=len(strange))
        return shown

    def _log_frequencies(self) -> Array:
        """Return the log of each token's share of train, ``[vocabulary]``, one added to every count."""
        counts = np.ones(self.vocabulary.size)
        for token, count in self._counts.items():
            counts[token] += count
        shares: Array = np.log(counts / counts.sum()).astype(np.float32)
        return shares

    def _texts(self, tokens: Sequence[int]) -> list[str]:
        return [self.vocabulary.decode([token]) for token in tokens]


def _where(found: Array) -> list[int]:
    return [int(place) for place in np.flatnonzero(found)]
