"""Token classification: entities and slots as BIO tags on words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

import mtl
from mtl.data.features import Columns, Features, Ragged, Tokenized
from mtl.data.rows import Rows
from mtl.errors import DataError
from mtl.kind import Batch, Request
from mtl.metrics import Array, Metric, Outcome
from mtl.model.heads import WordHead
from mtl_tasks.classification import label_index

_OUTSIDE = "O"
_IGNORED = -100


def _seqeval(name: str) -> Callable[[Outcome], float]:
    def compute(outcome: Outcome) -> float:
        import seqeval.metrics

        options = {} if name == "accuracy_score" else {"zero_division": 0}
        return float(getattr(seqeval.metrics, name)(outcome.gold, outcome.predicted, **options))

    return compute


class TokenClassification(mtl.TaskKind):
    """A BIO tag for each word, by softmax cross-entropy on its first token; a unit is a word.

    Rows are lists of words with lists of tags, or texts with spans ``{start, end, type}`` counted in characters.
    A text is split into words as the encoder's tokenizer splits it.
    """

    roles = {"tokens": False, "tags": False, "text": False, "spans": False}
    target_roles = frozenset({"tags", "spans"})
    metrics = (
        Metric("span_f1", _seqeval("f1_score")),
        Metric("span_precision", _seqeval("precision_score")),
        Metric("span_recall", _seqeval("recall_score")),
        Metric("tag_accuracy", _seqeval("accuracy_score")),
    )
    needs_words = True
    episodic = True

    _types: tuple[str, ...] = ()

    @classmethod
    def sample(cls) -> dict[str, Any]:
        names = [("anna", "oslo"), ("bob", "rome"), ("mia", "lima"), ("tom", "paris")]
        rows = [{"tokens": [who, "went", "to", where], "tags": ["B-person", "O", "O", "B-place"]} for who, where in names]
        turned = [{"tokens": ["to", where, "went", who], "tags": ["O", "B-place", "O", "B-person"]} for who, where in names]
        return {"data": [*rows, *turned]}

    @property
    def labels(self) -> tuple[str, ...]:
        return (_OUTSIDE, *(f"{prefix}-{kind}" for kind in self._types for prefix in "BI"))

    @property
    def state(self) -> dict[str, Any]:
        return {"types": list(self._types)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._types = tuple(state["types"])

    def readable(self, columns: Collection[str]) -> bool:
        return "tokens" in columns or "text" in columns

    def fit(self, rows: Rows) -> None:
        if not ({"tokens", "tags"} <= set(rows.columns) or {"text", "spans"} <= set(rows.columns)):
            raise DataError(
                f"Task {self.task.name!r}: {rows.source} needs the columns tokens and tags, or text and spans. "
                "Say which columns they are under 'columns'."
            )
        found = set()
        for index in range(len(rows)):
            if "tags" in rows:
                found |= {tag[2:] for tag in self._tags(rows, index) if tag != _OUTSIDE}
            else:
                found |= {span["type"] for span in self._spans(rows, index)}
        self._types = self.task.labels or tuple(sorted(found))
        if not self._types:
            raise DataError(f"Task {self.task.name!r}: no row of {rows.source} has an entity; there is nothing to learn.")

    def requests(self, rows: Rows) -> list[Request]:
        if "tokens" not in rows:
            return [*rows.texts("text", max_words=self.task.max_words)]
        rows.texts("tokens", max_words=self.task.max_words)
        for index, tokens in enumerate(rows["tokens"]):
            if not isinstance(tokens, list):
                raise rows.error(index, f"tokens is {tokens!r:.60}; a list of words is needed, or map the column to 'text'.")
        return [*rows["tokens"]]

    def alignment(self, tokenized: Tokenized) -> Columns:
        words = tokenized.first_token
        return {"words": words, "word_count": words.lengths, "chars": tokenized.word_chars}

    def targets(self, rows: Rows, tokenized: Tokenized) -> Columns:
        known = {tag: number for number, tag in enumerate(self.labels)}
        types = {kind: number for number, kind in enumerate(self._types)}
        numbers, lost = [], []
        for index in range(len(rows)):
            if "tags" in rows:
                tags = self._tags(rows, index)
                unseen: list[str] = []
                for tag in tags:
                    if tag != _OUTSIDE:
                        label_index(rows, index, tag[2:], types)
            else:
                spans = self._spans(rows, index)
                for span in spans:
                    label_index(rows, index, span["type"], types)
                tags, unseen = _tag_words(spans, tokenized.word_chars[index].reshape(-1, 2), rows["text"][index])
            first = tokenized.first_token[index]
            numbers.append([known[tag] if place >= 0 else _IGNORED for tag, place in zip(tags, first, strict=True)])
            lost.append([known[tag] for tag in unseen])
        gold = [[known[tag] for tag in self._tags(rows, index)] for index in range(len(rows))] if "tags" in rows else numbers
        return {
            "tags": Ragged.of(numbers, fill=_IGNORED),
            "gold": Ragged.of(gold),
            "lost": Ragged.of(lost),
        }

    def units(self, batch: Batch, rows: int) -> int:
        return int((batch["tags"] != _IGNORED).sum())

    def head(self, hidden: int) -> nn.Module:
        return WordHead(hidden, len(self.labels))

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        total = nn.functional.cross_entropy(
            outputs.flatten(0, 1), batch["tags"].flatten(), ignore_index=_IGNORED, reduction="sum"
        )
        return total / (batch["tags"] != _IGNORED).sum().clamp(min=1)

    def gold(self, features: Features) -> list[list[str]]:
        """Return tags of all words; spans that were cut off with the end of a long text are added as missed."""
        gold, lost, labels = features.columns["gold"], features.columns["lost"], self.labels
        return [[labels[tag] for tag in (*gold[row], *lost[row])] for row in range(len(features))]

    def decode(self, outputs: Tensor, batch: Batch) -> list[list[str]]:
        best = outputs.argmax(-1).tolist()
        first, counts, labels = batch["words"].tolist(), batch["word_count"].tolist(), self.labels
        return [
            [labels[tag] if place >= 0 else _OUTSIDE for tag, place in zip(tags[:count], places[:count], strict=True)]
            for tags, places, count in zip(best, first, counts, strict=True)
        ]

    def classes_of(self, features: Features) -> list[list[int]]:
        """Return the types that each row has an entity of; rows without one are not drawn."""
        tags = features.columns["tags"]
        return [sorted({(tag - 1) // 2 for tag in tags[row].tolist() if tag > 0}) for row in range(len(features))]

    def outputs_of(self, classes: Sequence[int]) -> list[int]:
        return [0, *(output for kind in classes for output in (1 + 2 * kind, 2 + 2 * kind))]

    def narrow(self, features: Features, classes: Sequence[int]) -> Features:
        """Count the entities of other types as outside, as Ding et al. 2021 do (Few-NERD, arXiv:2105.07464)."""
        kept = [_IGNORED, *self.outputs_of(classes)]
        columns: dict[str, Any] = dict(features.columns)
        for name in ("tags", "gold"):
            tags = columns[name]
            columns[name] = replace(tags, values=np.where(np.isin(tags.values, kept), tags.values, 0))
        lost = [[tag for tag in columns["lost"][row].tolist() if tag in kept] for row in range(len(features))]
        return replace(features, columns={**columns, "lost": Ragged.of(lost)})

    def answers(self, batch: Batch) -> Tensor:
        return batch["tags"]

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._types

    def trivial(self) -> list[str]:
        return []

    def outcome(self, features: Features, predicted: Sequence[Any], scores: Array | None) -> Outcome:
        gold = self.gold(features)
        full = [[*tags, *[_OUTSIDE] * (len(right) - len(tags))] for right, tags in zip(gold, predicted, strict=True)]
        return Outcome(gold, full, None, self.labels)

    def present(
        self, answer: Any, scores: Array | None, requests: Sequence[Request], batch: Mapping[str, Array]
    ) -> dict[str, Any]:
        from seqeval.metrics.sequence_labeling import get_entities

        entities, request = [], requests[0]
        for kind, first, last in get_entities(answer):
            if isinstance(request, str):
                start, end = int(batch["chars"][2 * first]), int(batch["chars"][2 * last + 1])
                entities.append({"type": kind, "text": request[start:end], "start": start, "end": end})
            else:
                entities.append({"type": kind, "text": " ".join(request[first : last + 1]), "start": first, "end": last + 1})
        return {"entities": entities}

    def _tags(self, rows: Rows, index: int) -> list[str]:
        tags, tokens = rows["tags"][index], rows["tokens"][index]
        if not isinstance(tags, list) or not isinstance(tokens, list) or len(tags) != len(tokens):
            sizes = (
                f"{len(tokens)} tokens and {len(tags)} tags"
                if isinstance(tags, list) and isinstance(tokens, list)
                else f"tokens {tokens!r:.40} and tags {tags!r:.40}, which are no two lists"
            )
            raise rows.error(index, f"there are {sizes}; each token needs one tag. Mend or remove the row.")
        for tag in tags:
            if not isinstance(tag, str) or not (tag == _OUTSIDE or (tag[:2] in ("B-", "I-") and len(tag) > 2)):
                raise rows.error(index, f"tag {tag!r} is not BIO: write O, B-type or I-type.")
        return tags

    def _spans(self, rows: Rows, index: int) -> list[dict[str, Any]]:
        spans, text = rows["spans"][index], rows["text"][index]
        if not isinstance(spans, list):
            raise rows.error(index, f"spans is {spans!r:.60}; a list of objects with start, end and type is needed.")
        for span in spans:
            if not (isinstance(span, dict) and {"start", "end", "type"} <= set(span)):
                raise rows.error(index, f"span {span!r:.60} is not an object with start, end and type.")
            if not (isinstance(span["start"], int) and isinstance(span["end"], int) and isinstance(span["type"], str)):
                raise rows.error(index, f"span {span!r:.80}: start and end are whole numbers, type is a text.")
            if not 0 <= span["start"] < span["end"] <= len(text or ""):
                raise rows.error(
                    index, f"span {span['start']} to {span['end']} is outside the text of {len(text or '')} characters."
                )
        return sorted(spans, key=lambda span: int(span["start"]))


def _tag_words(spans: Sequence[Mapping[str, Any]], chars: Array, text: str) -> tuple[list[str], list[str]]:
    """Tag the words that spans touch; return the tags of what lies beyond the last word as well."""
    tags = [_OUTSIDE] * len(chars)
    cut, unseen = [], []
    for span in spans:
        touched = np.flatnonzero((chars[:, 0] < span["end"]) & (chars[:, 1] > span["start"])).tolist()
        touched = [word for word in touched if tags[word] == _OUTSIDE]
        if not touched:
            unseen.append(f"B-{span['type']}")
        elif touched[-1] == len(chars) - 1 and chars[-1, 1] < len(text[: span["end"]].rstrip()):
            cut.append(f"I-{span['type']}")  # it goes on where the text was cut off
        for place, word in enumerate(touched):
            tags[word] = f"{'I' if place else 'B'}-{span['type']}"
    return tags, [*cut, *unseen]
