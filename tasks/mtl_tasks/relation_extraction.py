"""Relation extraction: how two marked entities of a sentence stand to each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import normalize

from mtl.data.features import Columns, Features, Tokenized
from mtl.data.rows import Rows
from mtl.kind import Request
from mtl.metrics import CLASSIFICATION, Array, Metric, Outcome
from mtl.model.encoded import Encoded
from mtl.model.heads import LinearHead
from mtl.task import Frozen
from mtl_tasks.classification import Classification

#: What stands before and after the head and the tail: words that every vocabulary has.
_HEAD, _TAIL = "@", "#"
_DIRECTION = re.compile(r"\((e1,e2|e2,e1)\)$")
_NONE = ""
Span = tuple[int, int]


class RelationOptions(Frozen):
    """Options of relation extraction.

    Args:
        other: The label that says that there is no relation; it does not count in the F1 of relations.
    """

    other: str = "Other"


class MarkerHead(LinearHead):
    """A linear layer on the states of the two markers that open the entities, ``[rows, outputs]``.

    "Entity markers – entity start" of Baldini Soares et al. 2019 (arXiv:1906.03158, figure 3f).
    """

    def features(self, encoded: Encoded, columns: Mapping[str, Tensor], *, unit: bool = False) -> Tensor:
        """Return ``[rows, 2 hidden]``."""
        states = encoded.states
        places = columns["markers"].long().clamp(min=0).unsqueeze(-1).expand(-1, -1, states.shape[-1])
        found = states.gather(1, places)
        found = normalize(found, dim=-1) if unit else found
        return normalize(found.flatten(1), dim=-1) if unit else found.flatten(1)


def relation_type(label: str) -> str:
    """Return a relation without its direction: ``Cause-Effect(e1,e2)`` is ``Cause-Effect``."""
    return _DIRECTION.sub("", label)


def count_relations(outcome: Outcome) -> dict[str, tuple[int, int, int]]:
    """Return for each type of relation how often it was found rightly, found at all, and there; both directions together."""
    pairs = list(zip(outcome.gold, outcome.predicted, strict=True))
    return {
        kind: (
            sum(gold == answer and relation_type(gold) == kind for gold, answer in pairs),
            sum(relation_type(answer) == kind for _, answer in pairs),
            sum(relation_type(gold) == kind for gold, _ in pairs),
        )
        for kind in dict.fromkeys(relation_type(label) for label in outcome.labels if label != _NONE)
    }


def _f1(right: int, found: int, there: int) -> float:
    return 2 * right / (found + there) if found + there else 0.0


def macro_f1(outcome: Outcome) -> float:
    """Return the official score of SemEval-2010 task 8 (Hendrickx et al. 2010, section 4), from 0 to 1.

    The mean F1 of the types of relation. A relation in the wrong direction is wrong; no relation is no type.
    """
    return float(np.mean([_f1(*counts) for counts in count_relations(outcome).values()]))


def _micro(place: Callable[[int, int, int], float]) -> Callable[[Outcome], float]:
    def compute(outcome: Outcome) -> float:
        right, found, there = (sum(column) for column in zip(*count_relations(outcome).values(), strict=True))
        return place(right, found, there)

    return compute


class RelationExtraction(Classification):
    """One of several relations between the head and the tail of a sentence; a unit is a row.

    The entities are marked by ``@ … @`` and ``# … #`` in what the encoder reads ("entity marker (punct)" of Zhou & Chen
    2022, arXiv:2102.01373, section 3.1). Rows are ``tokens`` with spans that count words, or a ``text`` with spans that
    count characters; a span is ``[start, end]`` with the end not in it.
    """

    roles = {"tokens": False, "text": False, "head": True, "tail": True, "label": True}
    metrics = (
        Metric("relation_macro_f1", macro_f1),
        Metric("relation_micro_f1", _micro(_f1)),
        Metric("relation_precision", _micro(lambda right, found, there: right / found if found else 0.0)),
        Metric("relation_recall", _micro(lambda right, found, there: right / there if there else 0.0)),
        *(metric for metric in CLASSIFICATION if metric.name in ("accuracy", "mcc", "confusion_matrix")),
    )
    Options = RelationOptions
    needs_words = True

    @classmethod
    def sample(cls) -> dict[str, Any]:
        pairs = [("cat", "mat"), ("dog", "sofa"), ("boy", "chair"), ("bird", "roof")]
        rows = [{"tokens": ["the", a, "on", "a", b], "head": [1, 2], "tail": [4, 5], "label": "On(e1,e2)"} for a, b in pairs]
        turned = [{**row, "head": row["tail"], "tail": row["head"], "label": "On(e2,e1)"} for row in rows[:2]]
        none = [{"tokens": [a, "and", b], "head": [0, 1], "tail": [2, 3], "label": "Other"} for a, b in pairs[:2]]
        return {"data": [*rows, *turned, *none]}

    def readable(self, columns: Collection[str]) -> bool:
        return super().readable(columns) and ("tokens" in columns or "text" in columns)

    def requests(self, rows: Rows) -> list[Request]:
        return [self._mark(rows, index) for index in range(len(rows))]

    def alignment(self, tokenized: Tokenized) -> Columns:
        """Return the places of the markers that open head and tail; −1 where a long text was cut off before."""
        places = []
        for row in range(len(tokenized)):
            ids, first = tokenized.input_ids[row], tokenized.first_token[row]
            opening = [next((p for p in first.tolist() if p >= 0 and ids[p] == mark), -1) for mark in self._marks]
            places.append(opening)
        return {"markers": np.array(places, dtype=np.int64).reshape(-1, 2)}

    def targets(self, rows: Rows, tokenized: Tokenized) -> Columns:
        for index, places in enumerate(self.alignment(tokenized)["markers"]):  # type: ignore[arg-type]
            if min(places) < 0:
                raise rows.error(
                    index,
                    "an entity lies beyond encoder.max_length. Raise it, shorten the text, or remove the row.",
                )
        return super().targets(rows, tokenized)

    def head(self, hidden: int) -> MarkerHead:
        return MarkerHead(2 * hidden, len(self.labels))

    def name_requests(self) -> None:
        """Names have no entities to mark."""

    def outcome(self, features: Features, predicted: Sequence[Any], scores: Array | None) -> Outcome:
        """Return the outcome with an empty name for no relation."""
        gold, answers, labels = (
            [_NONE if label == self.options.other else label for label in found]
            for found in (self.gold(features), predicted, self.labels)
        )
        return Outcome(gold, answers, scores, tuple(labels))

    @property
    def _marks(self) -> tuple[int, int]:
        head, tail = (self.vocabulary.encode([f" {mark}"])[0][-1] for mark in (_HEAD, _TAIL))
        return head, tail

    def _mark(self, rows: Rows, index: int) -> list[str]:
        """Return the words of a row with its entities marked."""
        whole = self._whole(rows, index)
        head, tail = (self._span(rows, index, role, len(whole)) for role in ("head", "tail"))
        if max(head[0], tail[0]) < min(head[1], tail[1]):
            raise rows.error(index, f"head {list(head)} and tail {list(tail)} overlap; mark two entities that do not.")
        (first, mark), (second, other) = sorted([(head, _HEAD), (tail, _TAIL)])
        parts: list[Any] = [whole[: first[0]], whole[slice(*first)], whole[first[1] : second[0]]]
        parts += [whole[slice(*second)], whole[second[1] :]]
        before, one, between, two, after = (_words(part) for part in parts)
        return [*before, mark, *one, mark, *between, other, *two, other, *after]

    def _whole(self, rows: Rows, index: int) -> Any:
        """Return a row's words, or its text, with signs that mark entities taken for others."""
        if "tokens" not in rows:
            return rows.take([index]).texts("text", max_words=self.task.max_words)[0].replace(_HEAD, "a").replace(_TAIL, "-")
        tokens = rows["tokens"][index]
        if not isinstance(tokens, list) or not all(isinstance(word, str) for word in tokens):
            raise rows.error(index, f"tokens is {tokens!r:.60}; a list of words is needed, or map the column to 'text'.")
        return [word.replace(_HEAD, "a").replace(_TAIL, "-") for word in tokens]

    def _span(self, rows: Rows, index: int, role: str, length: int) -> Span:
        span = rows[role][index]
        numbers = isinstance(span, list | tuple) and len(span) == 2 and all(type(edge) is int for edge in span)
        if not numbers:
            raise rows.error(index, f"{role} is {span!r:.60}; it must be two whole numbers, where it starts and where it ends.")
        if not 0 <= span[0] < span[1] <= length:
            unit = "words" if "tokens" in rows else "characters"
            raise rows.error(
                index, f"{role} {list(span)} is outside the {length} {unit} of the row, or empty. The end is not part of it."
            )
        return span[0], span[1]


def _words(part: Sequence[str] | str) -> list[str]:
    return part.split() if isinstance(part, str) else list(part)
