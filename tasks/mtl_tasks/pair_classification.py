"""Pair classification: one label for two texts (entailment, paraphrase, …)."""

from __future__ import annotations

from typing import Any

from mtl.data.rows import Rows
from mtl.kind import Request
from mtl_tasks.classification import Classification
from mtl_tasks.pairs import PairOptions, pair_requests


class PairClassification(Classification):
    """One of several labels for a pair of texts; a unit is a pair."""

    roles = {"text": True, "text_pair": True, "label": True}
    Options = PairOptions

    @classmethod
    def sample(cls) -> dict[str, Any]:
        pairs = [("a cat", "a pet"), ("a dog", "a pet"), ("a rose", "a plant"), ("an oak", "a plant")]
        others = ("a pet", "a plant")
        return {"data": [{"text": a, "text_pair": b, "label": "yes" if b == own else "no"} for a, own in pairs for b in others]}

    @property
    def sequences(self) -> int:
        return 2 if self.options.pairing == "bi" else 1

    def requests(self, rows: Rows) -> list[Request]:
        return pair_requests(rows, self.options.pairing, self.task.max_words)
