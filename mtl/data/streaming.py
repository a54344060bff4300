"""Features of rows that are more than memory holds: made part by part, and read memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mtl.data.features import Features, Ragged, Tokenized, WindowError, sequences_of
from mtl.data.lazy import Lazy
from mtl.data.rows import Rows
from mtl.data.spool import Columns, RaggedSpool
from mtl.errors import RowError
from mtl.metrics import Array

if TYPE_CHECKING:
    from mtl.data.tokenizer import Tokenizer
    from mtl.kind import Request, TaskKind

_PART_ROWS = 8192


class Requests(Lazy):
    """What is encoded of each row, made again when it is asked for."""

    def __init__(self, kind: TaskKind, rows: Rows) -> None:
        self._kind, self._rows = kind, rows
        super().__init__(len(rows), self._make)

    def _make(self, start: int, end: int) -> list[list[Request]]:
        part = self._rows.take(range(start, end))
        ends = np.cumsum(self._kind.sequence_counts(part)).tolist()
        requests = self._kind.requests(part)
        return [requests[first:last] for first, last in zip([0, *ends], ends, strict=False)]

    def take(self, indices: Sequence[int]) -> Requests:
        return Requests(self._kind, self._rows.take(indices))


def featurize_in_parts(kind: TaskKind, rows: Rows, tokenizer: Tokenizer, *, with_targets: bool = True) -> Features:
    """Turn rows into features, as :func:`mtl.data.features.featurize` does, a part in memory at a time.

    What a kind says of a row must not depend on the other rows, as everywhere; the result is the same. Tokens are kept in
    the token cache; alignment and targets in files that end with the process.

    Raises:
        DataError: If a row cannot serve; names file and row.
    """
    counts = _counts(kind, rows)
    ends = np.cumsum(counts) if kind.sequences == 0 else None

    def parts() -> Iterator[list[Request]]:
        for start, part in _parts(rows):
            with _placed(start):
                yield kind.requests(part)

    try:
        tokenized = tokenizer.streamed(parts, words=kind.needs_words, stride=kind.stride)
    except WindowError as error:
        row = error.request // kind.sequences if ends is None else int(np.searchsorted(ends, error.request, side="right"))
        raise rows.error(row, str(error)) from error
    fixed = kind.sequences and tokenized.origin is None
    bare = Features(tokenized, kind.sequences if fixed else sequences_of(counts, tokenized), {}, rows, Requests(kind, rows))
    return _with_columns(kind, bare, counts, tokenizer, with_targets)


def _with_columns(kind: TaskKind, bare: Features, counts: Array, tokenizer: Tokenizer, with_targets: bool) -> Features:
    columns, drawn = Columns(tokenizer.cache), RaggedSpool(tokenizer.cache)
    rng, first, redrawn = np.random.default_rng(0), 0, False
    for start, part in _parts(bare.rows):
        end = start + len(part)
        places = range(bare.places(start).start, bare.places(end - 1).stop)
        own = _slice(bare.tokenized, places, first)
        first += int(counts[start:end].sum())
        with _placed(start):
            found = {**kind.alignment(own), **(kind.targets(part, own) if with_targets else {})}
        each = bare.sequences if isinstance(bare.sequences, int) else bare.sequences[start:end]
        features = Features(own, each, found, part)
        if with_targets and (fresh := kind.redraw(features, range(len(part)), rng)) is not None:
            features, redrawn = fresh, True
            drawn.append(fresh.tokenized.input_ids)
        columns.append(features.columns)
    tokenized = replace(bare.tokenized, input_ids=drawn.mapped()) if redrawn else bare.tokenized
    return replace(bare, tokenized=tokenized, columns=columns.mapped())


def _parts(rows: Rows) -> Iterator[tuple[int, Rows]]:
    for start in range(0, len(rows), _PART_ROWS):
        yield start, rows.take(range(start, min(start + _PART_ROWS, len(rows))))


def _counts(kind: TaskKind, rows: Rows) -> Array:
    """Return how many requests each row has, ``[rows]``."""
    if kind.sequences:
        return np.broadcast_to(np.int64(kind.sequences), (len(rows),))
    found = []
    for start, part in _parts(rows):
        with _placed(start):
            found.append(kind.sequence_counts(part))
    return np.concatenate(found)


@contextmanager
def _placed(start: int) -> Iterator[None]:
    """Let an error of a part's row be one of all rows."""
    try:
        yield
    except RowError as error:
        raise RowError(start + error.index, str(error)) from error


def _slice(tokenized: Tokenized, places: range, first: int) -> Tokenized:
    """Return the sequences at ``places`` without copying them; ``first`` is the first request that they are of."""

    def own(column: Ragged) -> Ragged:
        if not len(column):
            return column
        offsets = column.offsets[places.start : places.stop + 1]
        return Ragged(column.values[offsets[0] : offsets[-1]], offsets - offsets[0], column.fill)

    segments, origin = tokenized.token_type_ids, tokenized.origin
    return Tokenized(
        own(tokenized.input_ids),
        None if segments is None else own(segments),
        own(tokenized.first_token),
        own(tokenized.word_chars),
        token_chars=own(tokenized.token_chars),
        origin=None if origin is None else origin[places.start : places.stop] - first,
    )
