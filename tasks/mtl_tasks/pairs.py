"""What kinds that read a pair of texts share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import mtl
from mtl.data.rows import Rows
from mtl.errors import ConfigError
from mtl.kind import Request
from mtl.metrics import Metric
from mtl.task import Frozen


class PairOptions(Frozen):
    """Options of a kind that reads pairs.

    Args:
        pairing: ``cross`` reads both texts in one sequence, each attending to the other; ``bi`` reads each on its
            own and compares the two vectors.
    """

    pairing: Literal["cross", "bi"] = "cross"


def pair_requests(rows: Rows, pairing: str, max_words: int) -> list[Request]:
    """Return one request a row for ``cross``, two for ``bi``."""
    pairs = zip(rows.texts("text", max_words=max_words), rows.texts("text_pair", max_words=max_words), strict=True)
    return [text for pair in pairs for text in pair] if pairing == "bi" else [*pairs]


class OneTextOrTwo(mtl.TaskKind):
    """A kind that reads a text, or a pair of texts where the task has a column for ``text_pair``."""

    roles = {"text": True, "text_pair": False, "label": True}
    Options = PairOptions

    def __init__(self, task: mtl.Task, extra_metrics: Sequence[Metric] = ()) -> None:
        super().__init__(task, extra_metrics)
        if "pairing" in task.options and not self._reads_pairs:
            raise ConfigError(
                f"Task {task.name!r}: options.pairing is of pairs, and kind {task.kind!r} reads one text of a row unless it is "
                "told of a second. Add columns: {text_pair: COLUMN}."
            )

    @property
    def _reads_pairs(self) -> bool:
        return "text_pair" in self.task.columns

    @property
    def sequences(self) -> int:
        return 2 if self._reads_pairs and self.options.pairing == "bi" else 1

    def readable(self, columns: Collection[str]) -> bool:
        return super().readable(columns) and (not self._reads_pairs or "text_pair" in columns)

    def requests(self, rows: Rows) -> list[Request]:
        if self._reads_pairs:
            return pair_requests(rows, self.options.pairing, self.task.max_words)
        return [*rows.texts("text", max_words=self.task.max_words)]
