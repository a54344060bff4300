"""Sequences whose items stay on disk and are read a block at a time when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

_BLOCK = 1024


class Lazy(Sequence[Any]):
    """Items that are read when they are asked for; of those asked for in order a block is kept.

    Args:
        length: How many there are.
        read: Returns the items from a place up to another.
    """

    def __init__(self, length: int, read: Callable[[int, int], Sequence[Any]]) -> None:
        self._length, self._read = length, read
        self._start, self._block = 0, list[Any]()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._length))]
        place = index + self._length if index < 0 else int(index)
        if not 0 <= place < self._length:
            raise IndexError(index)
        if not self._start <= place < self._start + len(self._block):
            in_order = place == self._start + len(self._block)
            end = min(place + (_BLOCK if in_order else 1), self._length)
            self._start, self._block = place, list(self._read(place, end))
        return self._block[place - self._start]

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, self._length, _BLOCK):
            yield from self._read(start, min(start + _BLOCK, self._length))

    def take(self, indices: Sequence[int]) -> Lazy:
        """Return the items at ``indices``, in that order; none is read yet."""
        return Lazy(len(indices), lambda start, end: [self[index] for index in indices[start:end]])


class DiskColumn(Lazy):
    """A column of a memory-mapped table.

    Args:
        table: Of `datasets`; is asked for slices and for lists of rows.
        name: The column.
        indices: Its rows, in that order. Default: all.
    """

    def __init__(self, table: Any, name: str, indices: Sequence[int] | None = None) -> None:
        self._table, self._name = table, name
        self._indices: Sequence[int] = range(len(table)) if indices is None else indices
        super().__init__(len(self._indices), self._read_rows)

    def _read_rows(self, start: int, end: int) -> Sequence[Any]:
        chosen = self._indices[start:end]
        if isinstance(chosen, range) and chosen.step == 1:
            found: Sequence[Any] = self._table[chosen.start : chosen.stop][self._name]
        else:
            found = self._table[[int(index) for index in chosen]][self._name]
        return found

    def take(self, indices: Sequence[int]) -> DiskColumn:
        if isinstance(self._indices, range) and isinstance(indices, range) and indices.step > 0:
            return DiskColumn(self._table, self._name, self._indices[indices.start : indices.stop : indices.step])
        return DiskColumn(self._table, self._name, np.asarray(self._indices)[np.asarray(indices, dtype=np.int64)])  # type: ignore[arg-type]
