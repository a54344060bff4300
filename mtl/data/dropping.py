"""Leaving out rows that cannot serve, where a task allows it; what is left out is counted and named."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mtl.data.features import Features, featurize
from mtl.data.rows import Rows
from mtl.data.tokenizer import Tokenizer
from mtl.errors import DataError, RowError

if TYPE_CHECKING:
    from mtl.kind import TaskKind

_LOG = logging.getLogger(__name__)


def featurize_splits(
    kind: TaskKind, rows: Mapping[str, Rows], tokenizer: Tokenizer
) -> tuple[dict[str, Features], dict[str, int]]:
    """Fit a kind on the training rows and turn all splits into features, as the task's ``bad_rows`` says.

    Args:
        kind: The kind, not fitted.
        rows: Split → rows.
        tokenizer: Of the encoder.

    Returns:
        Split → features, and split → how many rows are left out.

    Raises:
        DataError: If a row cannot serve and may not be left out; names file and row.
    """
    kind.vocabulary = tokenizer.vocabulary
    if kind.task.bad_rows == "drop":
        train = fit_without_bad(kind, rows["train"])
        kept = {split: without_bad(kind, found, tokenizer) for split, found in {**rows, "train": train}.items()}
        dropped = {split: len(rows[split]) - len(found) for split, found in kept.items()}
        return {split: featurize(kind, found, tokenizer) for split, found in kept.items()}, dropped
    try:
        kind.fit(rows["train"])
        return {split: featurize(kind, found, tokenizer) for split, found in rows.items()}, dict.fromkeys(rows, 0)
    except RowError as error:
        raise RowError(error.index, f"{error} 'bad_rows: drop' in task {kind.task.name!r} leaves such rows out.") from error


def fit_without_bad(kind: TaskKind, rows: Rows) -> Rows:
    """Fit a kind on the rows that it can learn from, and return those.

    Raises:
        DataError: If it is not a single row that is wrong, or no row is left.
    """
    while True:
        try:
            kind.fit(rows)
            return rows
        except RowError as error:
            rows = _without(kind, rows, [error.index], error)


def without_bad(kind: TaskKind, rows: Rows, tokenizer: Tokenizer) -> Rows:
    """Return the rows that a fitted kind can serve.

    Raises:
        DataError: If no row is left.
    """
    try:
        featurize(kind, rows, tokenizer)
        return rows
    except RowError as error:
        first = error
    bad = [index for index in range(len(rows)) if not _serves(kind, rows.take([index]), tokenizer)]
    return _without(kind, rows, bad, first)


def _serves(kind: TaskKind, row: Rows, tokenizer: Tokenizer) -> bool:
    bare = Tokenizer(tokenizer.backend, tokenizer.max_length, segments=tokenizer.has_segments)
    try:
        featurize(kind, row, bare)
    except RowError:
        return False
    return True


def _without(kind: TaskKind, rows: Rows, bad: list[int], first: RowError) -> Rows:
    left = sorted(set(range(len(rows))) - set(bad))
    if not left:
        raise DataError(f"Task {kind.task.name!r}: every row of {rows.source} is bad. The first: {first}")
    _LOG.warning(
        "task %s: %d of %d rows of %s are dropped; the first: %s", kind.task.name, len(bad), len(rows), rows.source, first
    )
    return rows.take(left)
