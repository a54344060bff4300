"""Features: rows of a split as numbers, tokenised once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl.data.lazy import Lazy
from mtl.data.rows import Rows, join_rows
from mtl.errors import MTLError
from mtl.metrics import Array

if TYPE_CHECKING:
    from mtl.data.tokenizer import Tokenizer
    from mtl.kind import Request, TaskKind


@dataclass(frozen=True)
class Ragged:
    """Lists of different lengths as one flat array.

    Attributes:
        values: All lists joined, ``[sum of lengths, ...]``.
        offsets: Where each list starts, and the end, ``[lists + 1]``.
        fill: What pads a list to the longest of its batch.
    """

    values: Array
    offsets: Array
    fill: int = 0

    @classmethod
    def of(cls, lists: Sequence[Sequence[Any]], dtype: str = "int64", fill: int = 0) -> Ragged:
        """Join ``lists``."""
        offsets = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(items) for items in lists], out=offsets[1:])
        flat = [item for items in lists for item in items]
        return cls(np.array(flat, dtype=dtype), offsets, fill)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Array:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> Array:
        """Length of each list, ``[lists]``."""
        return np.diff(self.offsets)

    def take(self, indices: Sequence[int]) -> Ragged:
        """Return the lists at ``indices``, in that order."""
        chosen, offsets = np.asarray(indices, dtype=np.int64), np.zeros(len(indices) + 1, dtype=np.int64)
        np.cumsum(self.offsets[chosen + 1] - self.offsets[chosen], out=offsets[1:])
        values = np.concatenate([self[index] for index in indices]) if len(indices) else self.values[:0]
        return Ragged(values, offsets, self.fill)

    def padded(self, indices: Sequence[int]) -> Array:
        """Return the lists at ``indices`` as one array, ``[indices, longest]``."""
        lists = [self[index] for index in indices]
        padded = np.full((len(lists), max(map(len, lists), default=0)), self.fill, dtype=self.values.dtype)
        for row, items in enumerate(lists):
            padded[row, : len(items)] = items
        return padded


def _join_ragged(parts: Sequence[Ragged]) -> Ragged:
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.lengths for part in parts]))]).astype(np.int64)
    return Ragged(np.concatenate([part.values for part in parts]), offsets, parts[0].fill)


#: What a kind gives for its rows: dense arrays ``[rows, ...]`` or ragged ones.
Columns = Mapping[str, "Array | Ragged"]


@dataclass(frozen=True)
class Tokenized:
    """Sequences as the encoder reads them.

    Attributes:
        input_ids: Token ids of each sequence.
        token_type_ids: Segment of each token, for encoders that have segments.
        first_token: For each word the position of its first token, −1 if it has none or was cut off; for
            kinds that need words.
        word_chars: Start and end of each word in the text, ``[words, 2]`` flattened; for texts only.
        truncated: How many sequences were cut at the encoder's longest length.
        token_chars: Start and end of each token in the text, of a pair in the second, ``[tokens, 2]`` flattened, −1 for
            tokens that are not of it; for kinds that ask for windows.
        origin: The request that each sequence is a window of, ``[sequences]``; ``None`` if each has a sequence of its own.
    """

    input_ids: Ragged
    token_type_ids: Ragged | None
    first_token: Ragged
    word_chars: Ragged
    truncated: int = 0
    token_chars: Ragged = field(default_factory=lambda: Ragged.of([]))
    origin: Array | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> tuple[Array, Array | None]:
        return self.input_ids[index], None if self.token_type_ids is None else self.token_type_ids[index]

    def take(self, indices: Sequence[int]) -> Tokenized:
        """Return the sequences at ``indices``, in that order."""
        segments = None if self.token_type_ids is None else self.token_type_ids.take(indices)
        first, chars, spans = (
            column.take(indices) if len(column) else column for column in (self.first_token, self.word_chars, self.token_chars)
        )
        origin = None if self.origin is None else self.origin[np.asarray(indices, dtype=np.int64)]
        return Tokenized(self.input_ids.take(indices), segments, first, chars, token_chars=spans, origin=origin)


@dataclass(frozen=True)
class Features:
    """One split of one task, ready for batches.

    Attributes:
        tokenized: The sequences, those of a row one after the other.
        sequences: How many sequences each row has, ``[rows]``, or all of them.
        columns: Alignment and targets, by name.
        rows: The rows they were made from.
        requests: What was encoded, the requests of each row.
    """

    tokenized: Tokenized
    sequences: int | Array
    columns: Columns
    rows: Rows
    requests: Sequence[Sequence[Request]] = field(repr=False, default=())

    def __len__(self) -> int:
        return len(self.tokenized) // self.sequences if isinstance(self.sequences, int) else len(self.sequences)

    @cached_property
    def counts(self) -> Array:
        """How many sequences each row has, ``[rows]``."""
        fixed = isinstance(self.sequences, int)
        return np.broadcast_to(np.int64(self.sequences), (len(self),)) if fixed else np.asarray(self.sequences)

    @cached_property
    def offsets(self) -> Array:
        """Where the sequences of each row start, and the end, ``[rows + 1]``."""
        return np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)

    def places(self, row: int) -> range:
        """Return where the sequences of a row are."""
        if isinstance(self.sequences, int):
            return range(row * self.sequences, (row + 1) * self.sequences)
        return range(int(self.offsets[row]), int(self.offsets[row + 1]))

    @property
    def lengths(self) -> Array:
        """Tokens of each row's longest sequence, ``[rows]``."""
        return self.lengths_of(np.arange(len(self)))

    def lengths_of(self, rows: Array) -> Array:
        """Return the tokens of the longest sequence of each of ``rows``, ``[n]``, without a look at the others."""
        fixed, counts = isinstance(self.sequences, int), self.counts[rows]
        ends = np.cumsum(counts)
        starts = rows * self.sequences if fixed else self.offsets[rows]
        places = np.repeat(starts - ends + counts, counts) + np.arange(ends[-1] if len(ends) else 0)
        offsets = self.tokenized.input_ids.offsets
        longest: Array = np.maximum.reduceat(offsets[places + 1] - offsets[places], ends - counts)
        return longest

    def take(self, indices: Sequence[int]) -> Features:
        """Return the rows at ``indices``, in that order."""
        sequences = [place for row in indices for place in self.places(row)]
        chosen = np.asarray(indices, dtype=np.int64)
        counts = self.sequences if isinstance(self.sequences, int) else self.sequences[chosen]
        columns = {
            name: column.take(indices) if isinstance(column, Ragged) else column[chosen] for name, column in self.columns.items()
        }
        if isinstance(self.requests, Lazy):
            requests: Sequence[Sequence[Request]] = self.requests.take(indices)
        else:
            requests = [self.requests[row] for row in indices] if self.requests else ()
        return Features(self.tokenized.take(sequences), counts, columns, self.rows.take(indices), requests)


def join(parts: Sequence[Features]) -> Features:
    """Put the rows of several splits of one task one after the other."""
    if len(parts) == 1:
        return parts[0]
    tokenized = [part.tokenized for part in parts]
    segments = [found.token_type_ids for found in tokenized if found.token_type_ids is not None]
    joined = Tokenized(
        _join_ragged([found.input_ids for found in tokenized]),
        _join_ragged(segments) if segments else None,
        _join_ragged([found.first_token for found in tokenized]),
        _join_ragged([found.word_chars for found in tokenized]),
        sum(found.truncated for found in tokenized),
        _join_ragged([found.token_chars for found in tokenized]),
    )
    columns: dict[str, Any] = {}
    for name, first in parts[0].columns.items():
        own: list[Any] = [part.columns[name] for part in parts]
        columns[name] = _join_ragged(own) if isinstance(first, Ragged) else np.concatenate(own)
    requests = [own for part in parts for own in part.requests]
    fixed = isinstance(parts[0].sequences, int)
    counts = parts[0].sequences if fixed else np.concatenate([part.counts for part in parts])
    return Features(joined, counts, columns, join_rows([part.rows for part in parts]), requests)


class WindowError(MTLError, ValueError):
    """A request leaves no room for windows; it is named by its number."""

    def __init__(self, request: int, taken: int, room: int, stride: int) -> None:
        self.request = request
        super().__init__(
            f"the first text has {taken} tokens, which leaves no room in {room} for windows that share {stride}. Shorten it, "
            "raise encoder.max_length, or lower the option stride."
        )


def default_cache() -> Path:
    """Return the cache folder: ``MTL_CACHE``, or ``mtl`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MTL_CACHE") or Path(base) / "mtl") / "tokens"


def featurize(kind: TaskKind, rows: Rows, tokenizer: Tokenizer, *, with_targets: bool = True) -> Features:
    """Turn rows into features.

    Raises:
        DataError: If a row cannot serve; names file and row.
    """
    if rows.on_disk:
        from mtl.data.streaming import featurize_in_parts  # it stands on what is above

        return featurize_in_parts(kind, rows, tokenizer, with_targets=with_targets)
    requests = kind.requests(rows)
    counts = kind.sequence_counts(rows)
    ends = np.cumsum(counts).tolist()
    try:
        tokenized = tokenizer(requests, words=kind.needs_words, stride=kind.stride)
    except WindowError as error:
        raise rows.error(int(np.searchsorted(ends, error.request, side="right")), str(error)) from error
    columns = {**kind.alignment(tokenized), **(kind.targets(rows, tokenized) if with_targets else {})}
    own = [requests[end - count : end] for end, count in zip(ends, counts.tolist(), strict=True)]
    sequences = kind.sequences if kind.sequences and tokenized.origin is None else sequences_of(counts, tokenized)
    features = Features(tokenized, sequences, columns, rows, own)
    if with_targets and (first := kind.redraw(features, range(len(rows)), np.random.default_rng(0))) is not None:
        return first
    return features


def sequences_of(counts: Array, tokenized: Tokenized) -> Array:
    """Return how many sequences each row has, ``[rows]``, from how many requests it has."""
    if tokenized.origin is None:
        return counts
    row_of = np.repeat(np.arange(len(counts)), counts)
    return np.bincount(row_of[tokenized.origin], minlength=len(counts)).astype(np.int64)


def name_features(kind: TaskKind, tokenizer: Tokenizer) -> Features | None:
    """Return the written names of a kind's classes, a row each; ``None`` if it has none that can be read."""
    requests = kind.name_requests()
    if requests is None:
        return None
    rows = Rows({}, f"names of classes of task {kind.task.name!r}", range(1, len(requests) + 1))
    return Features(tokenizer.uncached(requests, False), 1, {}, rows, [[request] for request in requests])
