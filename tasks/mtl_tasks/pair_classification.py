"""Pair classification: one label for two texts (entailment, paraphrase, …)."""

from __future__ import annotations

from mtl.data.rows import Rows
from mtl.kind import Request
from mtl_tasks.classification import Classification
from mtl_tasks.pairs import PairOptions, pair_requests


class PairClassification(Classification):
    """One of several labels for a pair of texts; a unit is a pair."""

    roles = {"text": True, "text_pair": True, "label": True}
    Options = PairOptions

    @property
    def sequences(self) -> int:
        return 2 if self.options.pairing == "bi" else 1

    def requests(self, rows: Rows) -> list[Request]:
        return pair_requests(rows, self.options.pairing, self.task.max_words)
