"""Ranking: which of several candidates answers a query best (response selection, retrieval, recommendation)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

import mtl
from mtl.data.features import Columns, Features, Ragged, Tokenized
from mtl.data.rows import Rows
from mtl.errors import DataError
from mtl.kind import Batch, Request
from mtl.metrics import Array, Metric, Outcome
from mtl.model.encoded import Encoded
from mtl.model.heads import by_row
from mtl.task import Frozen

_SCALE = 20.0  # of cosines, as Sentence-BERT's ranking loss has it
#: What counts as a word where words in common are looked for: punctuation too, so that no text is without one.
WORD = r"\w+|[^\w\s]"


class RankingOptions(Frozen):
    """Options of ranking.

    Args:
        encoding: ``bi`` reads query and candidates each on its own and compares vectors: fast, and every candidate has
            an embedding to index. ``cross`` reads the query with each candidate in one sequence: slower and better.
        negatives: What a right candidate is told from in training: the ``own`` wrong candidates of its row, or those
            and all candidates of the ``batch``, for ``bi`` alone.
        dropout: Before the layer of ``cross``.
    """

    encoding: Literal["bi", "cross"] = "bi"
    negatives: Literal["own", "batch"] = "own"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def model_post_init(self, context: Any) -> None:
        """Refuse what cannot be: a pair that is read together has no vector of its own."""
        if self.encoding == "cross" and self.negatives == "batch":
            raise ValueError("negatives: batch needs encoding: bi")


class CrossHead(nn.Module):
    """A linear layer on each pair's pooled vector, ``[rows, candidates]``."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, 1)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, encoded: Encoded, columns: Mapping[str, Tensor]) -> Tensor:
        """Return a score for each candidate; −∞ where a row has fewer than others."""
        assert encoded.counts is not None
        return by_row(self.linear(self.dropout(encoded.pooled)).squeeze(-1), encoded.counts)


class BiHead(nn.Module):
    """Cosines of a query's vector and its candidates', times a scale that is learned, ``[rows, candidates]``."""

    def __init__(self, reads_batch: bool) -> None:
        super().__init__()
        self.reads_batch = reads_batch
        self.log_scale = nn.Parameter(torch.tensor(math.log(_SCALE)))

    def forward(self, encoded: Encoded, columns: Mapping[str, Tensor]) -> Tensor:
        """Return a score for each candidate of a row; in training, if asked, then for those of the whole batch."""
        assert encoded.counts is not None
        pooled, counts = normalize(encoded.pooled, dim=-1), encoded.counts
        starts = counts.cumsum(0) - counts
        is_query = torch.zeros(len(pooled), dtype=torch.bool, device=pooled.device).index_fill(0, starts, True)
        queries, candidates = pooled[is_query], pooled[~is_query]
        scale = self.log_scale.exp()
        own = by_row(scale * (queries.repeat_interleave(counts - 1, dim=0) * candidates).sum(-1), counts - 1)
        if not (self.training and self.reads_batch):
            return own
        return torch.cat([own, scale * queries @ candidates.T], dim=1)


def _ranks(outcome: Outcome) -> list[list[int]]:
    """Return for each row the places of its right candidates in the ranking, from 1, best first."""
    pairs = zip(outcome.gold, outcome.predicted, strict=True)
    return [sorted(1 + list(ranking).index(candidate) for candidate in gold) for gold, ranking in pairs]


def _mean_over_rows(of_row: Callable[[list[int]], float]) -> Callable[[Outcome], float]:
    return lambda outcome: float(np.mean([of_row(ranks) for ranks in _ranks(outcome)]))


def recall_at(k: int) -> Callable[[Outcome], float]:
    """Return recall@k: the share of a row's right candidates among the first k, a mean over rows."""
    return _mean_over_rows(lambda ranks: sum(rank <= k for rank in ranks) / len(ranks))


def _dcg(ranks: Sequence[int]) -> float:
    return sum(1 / math.log2(1 + rank) for rank in ranks)


#: Mean reciprocal rank of the first right candidate (Voorhees 1999, TREC-8 question answering track).
mean_reciprocal_rank = _mean_over_rows(lambda ranks: 1 / ranks[0])
#: Normalised discounted cumulative gain of binary relevance (Järvelin & Kekäläinen 2002, ACM TOIS 20:422).
ndcg = _mean_over_rows(lambda ranks: _dcg(ranks) / _dcg(range(1, len(ranks) + 1)))


class Ranking(mtl.TaskKind):
    """The right ones of a row's candidates, by softmax cross-entropy over candidates; a unit is a row.

    ``label`` is the number of the right candidate, from 0, or a list of numbers if several are right; then their
    probabilities are added. With ``negatives: batch`` the candidates of the other rows are wrong ones too (Henderson et
    al. 2017, arXiv:1705.00652, section 4), unless they are the same text as a right one.
    """

    roles = {"text": True, "candidates": True, "label": True}
    metrics = (
        Metric("recall@1", recall_at(1)),
        Metric("recall@2", recall_at(2)),
        Metric("recall@5", recall_at(5)),
        Metric("mrr", mean_reciprocal_rank),
        Metric("ndcg", ndcg),
    )
    Options = RankingOptions
    sequences = 0

    @classmethod
    def sample(cls) -> dict[str, Any]:
        pairs = {
            "where is it": "in the box",
            "who is it": "my friend anna",
            "when is it": "at noon",
            "why is it": "because of rain",
        }
        replies = [*pairs.values()]
        rows = [{"text": text, "candidates": replies, "label": replies.index(reply)} for text, reply in pairs.items()]
        return {"data": [*rows, *({**row, "text": f"tell me {row['text']}"} for row in rows)]}

    @property
    def couples_rows(self) -> bool:
        return bool(self.options.negatives == "batch")

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Nothing is learned from the rows."""

    def fit(self, rows: Rows) -> None:
        counts = {len(self._candidates(rows, index)) for index in range(len(rows))}
        if max(counts) < 2 and not self.couples_rows:
            raise DataError(
                f"Task {self.task.name!r}: every row of {rows.source} has one candidate; there is nothing to tell apart. Give "
                "more candidates, or set the option negatives to batch."
            )

    def sequence_counts(self, rows: Rows) -> Array:
        extra = 1 if self.options.encoding == "bi" else 0
        return np.array([extra + len(self._candidates(rows, index)) for index in range(len(rows))], dtype=np.int64)

    def requests(self, rows: Rows) -> list[Request]:
        requests: list[Request] = []
        for index, text in enumerate(rows.texts("text", max_words=self.task.max_words)):
            candidates = self._candidates(rows, index)
            if self.options.encoding == "bi":
                requests += [text, *candidates]
            else:
                requests += [(text, candidate) for candidate in candidates]
        return requests

    def targets(self, rows: Rows, tokenized: Tokenized) -> Columns:
        right, names = [], []
        for index in range(len(rows)):
            candidates, gold = self._candidates(rows, index), self._gold(rows, index)
            right.append([int(number in gold) for number in range(len(candidates))])
            names.append([zlib.crc32(candidate.encode()) for candidate in candidates])
        return {"right": Ragged.of(right), "names": Ragged.of(names, fill=-1)}

    def head(self, hidden: int) -> nn.Module:
        if self.options.encoding == "bi":
            return BiHead(self.couples_rows)
        return CrossHead(hidden, self.options.dropout)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        right, names = batch["right"] > 0, batch["names"]
        own, others = outputs[:, : right.shape[1]], outputs[:, right.shape[1] :]
        if others.shape[1]:  # a row's own candidates are among those of the batch, and are not to count twice
            same = (names.unsqueeze(2) == names[names >= 0]).any(1)
            own = torch.cat([own, others.masked_fill(same, -math.inf)], dim=1)
        log_all = own.logsumexp(1)
        log_right = outputs[:, : right.shape[1]].masked_fill(~right, -math.inf).logsumexp(1)
        return (log_all - log_right).mean()

    def gold(self, features: Features) -> list[list[int]]:
        right: Any = features.columns["right"]
        return [np.flatnonzero(right[row]).tolist() for row in range(len(features))]

    def decode(self, outputs: Tensor, batch: Batch) -> list[list[int]]:
        """Return the numbers of each row's candidates, best first."""
        order = outputs.argsort(dim=1, descending=True, stable=True).tolist()
        counts = outputs.isfinite().sum(1).tolist()
        return [ranking[:count] for ranking, count in zip(order, counts, strict=True)]

    def trivial(self) -> list[int]:
        return []

    def trivial_outcome(self, features: Features) -> Outcome:
        """Return the outcome of ranking by the words in common: cosine of TF-IDF vectors, weighted by the split's own texts."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        rows = features.rows
        candidates = [self._candidates(rows, index) for index in range(len(rows))]
        texts = [*rows.texts("text"), *(candidate for own in candidates for candidate in own)]
        vectors = TfidfVectorizer(token_pattern=WORD).fit_transform(texts)  # of length 1
        rankings, start = [], len(rows)
        for index, own in enumerate(candidates):
            cosines = (vectors[start : start + len(own)] @ vectors[index].T).toarray().ravel()
            rankings.append(np.argsort(-cosines, kind="stable").tolist())
            start += len(own)
        return self.outcome(features, rankings, None)

    def present(
        self, answer: Any, scores: Array | None, requests: Sequence[Request], batch: Mapping[str, Array]
    ) -> dict[str, Any]:
        texts = requests[1:] if self.options.encoding == "bi" else [pair[1] for pair in requests]
        return {"best": texts[answer[0]], "ranking": answer}

    def _candidates(self, rows: Rows, index: int) -> list[str]:
        found = rows["candidates"][index]
        if not isinstance(found, list) or not found:
            raise rows.error(index, f"candidates is {found!r:.60}; a list of texts is needed. Mend or remove the row.")
        for number, text in enumerate(found):
            if not isinstance(text, str) or not text.strip():
                raise rows.error(index, f"candidate {number} is {text!r:.60}; a text is needed. Mend or remove the row.")
        return found

    def _gold(self, rows: Rows, index: int) -> set[int]:
        value, count = rows["label"][index], len(self._candidates(rows, index))
        numbers = value if isinstance(value, list) else [value]
        if not numbers or not all(type(number) is int for number in numbers):
            raise rows.error(index, f"label is {value!r:.60}; the number of the right candidate is needed, or a list of numbers.")
        if outside := [number for number in numbers if not 0 <= number < count]:
            raise rows.error(
                index, f"label {outside[0]} is not the number of one of the {count} candidates, which count from 0. Mend the row."
            )
        return set(numbers)
