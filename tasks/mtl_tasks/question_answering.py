"""Extractive question answering: where in a long context the answer to a question is, if it is there."""

from __future__ import annotations

import collections
import math
import re
import string
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

import mtl
from mtl.data.features import Columns, Features, Ragged, Tokenized
from mtl.data.rows import Rows
from mtl.errors import DataError
from mtl.kind import Batch, Request
from mtl.metrics import Array, Metric, Outcome
from mtl.model.encoded import Encoded
from mtl.model.heads import by_row
from mtl.task import Frozen

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SENTENCE = re.compile(r"\S.*?(?:[.!?](?=\s)|$)", re.DOTALL)


class QuestionAnsweringOptions(Frozen):
    """Options of extractive question answering.

    Args:
        stride: Tokens that the windows of a long context share.
        longest: The most tokens of an answer.
        no_answer: Whether a question may have no answer in its context.
    """

    stride: Annotated[int, Field(ge=0)] = 64
    longest: Annotated[int, Field(ge=1)] = 30
    no_answer: bool = False


def normalize(text: str) -> str:
    """Return a text without case, punctuation, articles and needless blanks, as SQuAD's evaluation does (arXiv:1606.05250)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(answer: str, gold: str) -> float:
    """Return the F1 of the words of two texts; of an empty one, whether both are."""
    found, right = normalize(answer).split(), normalize(gold).split()
    if not found or not right:
        return float(found == right)
    common = sum((collections.Counter(found) & collections.Counter(right)).values())
    return 2 * common / (len(found) + len(right))


def _best(compare: Callable[[str, str], float]) -> Callable[[Outcome], float]:
    """Return the mean over rows of the best comparison with one of a row's right answers."""

    def compute(outcome: Outcome) -> float:
        pairs = zip(outcome.gold, outcome.predicted, strict=True)
        return float(np.mean([max(compare(answer, right) for right in gold) for gold, answer in pairs]))

    return compute


class SpanHead(nn.Module):
    """Log-odds of each token of the context to start and to end the answer, ``[rows, 1 + tokens, 2]``.

    The first column is that of no answer, read from the first token of the windows. A token that several windows have is
    read where it has most context ("max context" of Devlin et al. 2019); the columns say where that is.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, 2)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, encoded: Encoded, columns: Mapping[str, Tensor]) -> Tensor:
        """Return the log-odds; −∞ beyond the end of a row's context."""
        scores = self.linear(encoded.states)
        counts = encoded.counts
        assert counts is not None
        first = (counts.cumsum(0) - counts).unsqueeze(1)
        window, place = columns["window"].long(), columns["place"].long()
        tokens = scores[first + window.clamp(min=0), place.clamp(min=0)]
        tokens = tokens.masked_fill((window < 0).unsqueeze(-1), -math.inf)
        none = by_row(scores[:, 0], counts).amax(1)
        return torch.cat([none.unsqueeze(1), tokens], dim=1)


class QuestionAnswering(mtl.TaskKind):
    """A span of a context, by softmax cross-entropy on its start and its end; a unit is a row.

    A long context is read in windows. Start and end are chosen among the tokens of all windows of a row together ("shared
    normalisation", Clark & Gardner 2018, arXiv:1710.10723, section 3.2), so that windows can be compared. ``answers`` is
    a list of right answers ``{text, start}``, counted in characters; training learns the first, metrics take the best.
    """

    roles = {"context": True, "question": True, "answers": True}
    target_roles = frozenset({"answers"})
    metrics = (
        Metric("f1", _best(token_f1)),
        Metric("exact_match", _best(lambda answer, gold: float(normalize(answer) == normalize(gold)))),
    )
    Options = QuestionAnsweringOptions

    @classmethod
    def sample(cls) -> dict[str, Any]:
        people = [("anna", "oslo"), ("bob", "rome"), ("mia", "lima"), ("tom", "paris")]
        rows = []
        for who, where in people:
            context = f"{who} lives in {where}"
            for question, answer in (("who", who), ("where", where)):
                found = {"text": answer, "start": context.index(answer)}
                rows.append({"context": context, "question": f"{question} is it", "answers": [found]})
        return {"data": rows, "options": {"stride": 4}}

    @property
    def stride(self) -> int:
        return int(self.options.stride)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Nothing is learned from the rows."""

    def readable(self, columns: Collection[str]) -> bool:
        return {"context", "question"} <= set(columns)

    def fit(self, rows: Rows) -> None:
        if not any(self._answers(rows, index) for index in range(len(rows))):
            raise DataError(f"Task {self.task.name!r}: no question of {rows.source} has an answer; there is nothing to learn.")

    def requests(self, rows: Rows) -> list[Request]:
        questions, contexts = (rows.texts(role, max_words=self.task.max_words) for role in ("question", "context"))
        return [*zip(questions, contexts, strict=True)]

    def alignment(self, tokenized: Tokenized) -> Columns:
        """Return for each token of a row's context its characters, and the window and place where it is read."""
        assert tokenized.origin is not None
        rows: list[list[tuple[int, int, int, int]]] = [[] for _ in range(int(tokenized.origin.max(initial=-1)) + 1)]
        windows: dict[int, list[Array]] = {}
        for sequence, row in enumerate(tokenized.origin.tolist()):
            windows.setdefault(row, []).append(tokenized.token_chars[sequence].reshape(-1, 2))
        for row, found in windows.items():
            rows[row] = _tokens(found)
        columns = zip(*([[token[part] for token in row] for row in rows] for part in range(4)), strict=True)
        window, place, starts, ends = zip(*columns, strict=True) if rows else ((), (), (), ())
        return {
            "window": Ragged.of(window, fill=-1),
            "place": Ragged.of(place, fill=-1),
            "starts": Ragged.of(starts, fill=-1),
            "ends": Ragged.of(ends, fill=-1),
        }

    def targets(self, rows: Rows, tokenized: Tokenized) -> Columns:
        columns: Any = self.alignment(tokenized)
        numbers = []
        for index in range(len(rows)):
            answers = self._answers(rows, index)
            if not answers:
                numbers.append((0, 0))
                continue
            start, end = answers[0]["start"], answers[0]["start"] + len(answers[0]["text"])
            inside = np.flatnonzero((columns["starts"][index] < end) & (columns["ends"][index] > start))
            if not len(inside):
                raise rows.error(index, f"answer {answers[0]['text']!r:.60} has no token of the encoder in it. Remove the row.")
            numbers.append((1 + int(inside[0]), 1 + int(inside[-1])))
        return {"span": np.array(numbers, dtype=np.int64).reshape(-1, 2)}

    def head(self, hidden: int) -> nn.Module:
        return SpanHead(hidden)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        log_odds = outputs if self.options.no_answer else _without_none(outputs)
        return nn.functional.cross_entropy(log_odds, batch["span"])  # over tokens, a mean of starts and ends

    def gold(self, features: Features) -> list[list[str]]:
        """Return the texts of each row's right answers; an empty one if there is none."""
        rows = features.rows
        return [[answer["text"] for answer in self._answers(rows, row)] or [""] for row in range(len(rows))]

    def decode(self, outputs: Tensor, batch: Batch) -> list[Any]:
        """Return the characters of each row's answer, ``(start, end)``; ``(0, 0)`` for none."""
        log_odds = outputs.float().log_softmax(1)
        best, firsts, lasts = _best_span(log_odds[:, 1:, 0], log_odds[:, 1:, 1], self.options.longest)
        none = log_odds[:, 0].sum(1)
        starts = batch["starts"].gather(1, firsts.unsqueeze(1)).squeeze(1).tolist()
        ends = batch["ends"].gather(1, lasts.unsqueeze(1)).squeeze(1).tolist()
        empty = (none > best).tolist() if self.options.no_answer else [False] * len(starts)
        return [(0, 0) if nothing else span for nothing, *span in zip(empty, starts, ends, strict=True)]

    def outcome(self, features: Features, predicted: Sequence[Any], scores: Array | None) -> Outcome:
        contexts = features.rows["context"]
        answers = [context[slice(*span)] for context, span in zip(contexts, predicted, strict=True)]
        return Outcome(self.gold(features), answers)

    def trivial(self) -> tuple[int, int]:
        return (0, 0)

    def trivial_outcome(self, features: Features) -> Outcome:
        """Return the outcome of the sentence that shares most words with the question, the earliest of equals."""
        asked = [set(normalize(question).split()) for question in features.rows["question"]]
        return self.outcome(features, [_best_sentence(*row) for row in zip(asked, features.rows["context"], strict=True)], None)

    def present(
        self, answer: Any, scores: Array | None, requests: Sequence[Request], batch: Mapping[str, Array]
    ) -> dict[str, Any]:
        start, end = answer
        return {"answer": requests[0][1][start:end], "start": start, "end": end}

    def _answers(self, rows: Rows, index: int) -> list[dict[str, Any]]:
        answers, context = rows["answers"][index], rows["context"][index] or ""
        if not isinstance(answers, list):
            raise rows.error(index, f"answers is {answers!r:.60}; a list of objects with text and start is needed.")
        if not answers and not self.options.no_answer:
            raise rows.error(index, "there is no answer. Set the option no_answer to true if that is meant, or remove the row.")
        for answer in answers:
            fits = isinstance(answer, dict) and isinstance(answer.get("text"), str) and type(answer.get("start")) is int
            if not fits or not answer["text"].strip():
                raise rows.error(index, f"answer {answer!r:.60} is not an object with a text and a whole number as start.")
            if context[answer["start"] : answer["start"] + len(answer["text"])] != answer["text"] or answer["start"] < 0:
                near = context.find(answer["text"])
                hint = f"It is at {near}." if near >= 0 else "The context does not have it."
                raise rows.error(index, f"answer {answer['text']!r:.60} is not at character {answer['start']}. {hint}")
        return answers


def _without_none(outputs: Tensor) -> Tensor:
    return torch.cat([outputs.new_full((len(outputs), 1, 2), -math.inf), outputs[:, 1:]], dim=1)


def _best_span(start: Tensor, end: Tensor, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best sum of a start and an end at most ``longest`` tokens apart, and where they are, each ``[rows]``."""
    best = start.new_full((len(start),), -math.inf)
    firsts = torch.zeros(len(start), dtype=torch.long, device=start.device)
    lasts = firsts.clone()
    for width in range(min(longest, start.shape[1])):
        sums, places = (start[:, : start.shape[1] - width] + end[:, width:]).max(1)
        better = sums > best
        best = torch.where(better, sums, best)
        firsts, lasts = torch.where(better, places, firsts), torch.where(better, places + width, lasts)
    return best, firsts, lasts


def _tokens(windows: Sequence[Array]) -> list[tuple[int, int, int, int]]:
    """Return window, place, start and end of each token of a context, each where it has most context on both sides."""
    best: dict[tuple[int, int], tuple[int, int, int]] = {}
    for number, chars in enumerate(windows):
        inside = np.flatnonzero(chars[:, 0] >= 0)
        for place in inside.tolist():
            span = (int(chars[place, 0]), int(chars[place, 1]))
            context = min(place - inside[0], inside[-1] - place)
            if span[0] < span[1] and context > best.get(span, (-1,))[0]:
                best[span] = (int(context), number, place)
    return [(number, place, *span) for span, (_, number, place) in sorted(best.items())]


def _best_sentence(asked: set[str], context: str) -> tuple[int, int]:
    spans = [found.span() for found in _SENTENCE.finditer(context)] or [(0, len(context))]
    return max(spans, key=lambda span: (len(asked & set(normalize(context[slice(*span)]).split())), -span[0]))
