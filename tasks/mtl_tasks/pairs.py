"""What kinds that read a pair of texts share."""

from __future__ import annotations

from typing import Literal

from mtl.data.rows import Rows
from mtl.kind import Request
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
