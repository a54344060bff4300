"""Rows of one split of one task, under the kind's column roles, each traceable to where it came from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mtl.data.lazy import Lazy
from mtl.errors import RowError


@dataclass(frozen=True)
class Rows:
    """Columns of equal length, with the file they came from and the row numbers there.

    Attributes:
        columns: Role → values, one a row.
        source: The file, data set or object, for messages.
        numbers: The rows' numbers in the source, from 1.
        fingerprint: Hash of what was read and how.
        files: Each file with its number of rows, where several were put together.
        names: Role → the column's name in the source, where that is another.
    """

    columns: Mapping[str, Sequence[Any]]
    source: str
    numbers: Sequence[int]
    fingerprint: str = ""
    files: tuple[tuple[str, int], ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, role: str) -> Sequence[Any]:
        return self.columns[role]

    def __contains__(self, role: object) -> bool:
        return role in self.columns

    @property
    def on_disk(self) -> bool:
        """Whether the values stay on disk and are read when they are asked for."""
        return any(isinstance(values, Lazy) for values in self.columns.values())

    def take(self, indices: Sequence[int]) -> Rows:
        """Return the rows at ``indices``, in that order."""
        columns = {
            role: values.take(indices) if isinstance(values, Lazy) else [values[i] for i in indices]
            for role, values in self.columns.items()
        }
        return replace(self, columns=columns, numbers=[self.numbers[i] for i in indices])

    def in_parts(self, size: int) -> Iterator[Rows]:
        """Yield the rows in parts of at most ``size``, for what goes through all of them once."""
        for start in range(0, len(self), size):
            yield self.take(range(start, min(start + size, len(self))))

    def where(self, index: int) -> str:
        """Name the place of a row: ``train.csv, row 12``."""
        number = self.numbers[index]
        for file, rows in self.files:
            if number <= rows:
                return f"{file}, row {number}"
            number -= rows
        return f"{self.source}, row {number}"

    def error(self, index: int, message: str) -> RowError:
        """Return the error that says what is wrong with the row at ``index``."""
        return RowError(index, f"{self.where(index)}: {message}")

    def texts(self, role: str, *, max_words: int | None = None) -> list[str]:
        """Return a column of texts; a list of words is joined by spaces.

        Raises:
            DataError: If a value is not a text, is empty, or has more than ``max_words`` words.
        """
        texts, column = [], f"column {self.names.get(role, role)!r}"
        for index, value in enumerate(self.columns[role]):
            if isinstance(value, list) and all(isinstance(word, str) for word in value):
                value = " ".join(value)
            if not isinstance(value, str):
                raise self.error(index, f"{column} holds {_show(value)}; a text is needed. {_remedy(value)}")
            if not value.strip():
                raise self.error(index, f"{column} is empty. Fill it in or remove the row.")
            if max_words is not None and len(value) > 2 * max_words and (count := len(value.split())) > max_words:
                raise self.error(
                    index,
                    f"{column} has {count:,} words, more than max_words ({max_words:,}). Is a quote left open, or a "
                    "whole file in one cell? If the text is meant, raise max_words in the task.",
                )
            texts.append(value)
        return texts


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Put rows one after the other; the columns that all have are kept."""
    roles = [role for role in parts[0].columns if all(role in part for part in parts)]
    columns = {role: [value for part in parts for value in part[role]] for role in roles}
    sources = " and ".join(dict.fromkeys(part.source for part in parts))
    numbers = [number for part in parts for number in part.numbers]
    digest = hashlib.sha256("\0".join(part.fingerprint for part in parts).encode()).hexdigest()
    return Rows(columns, sources, numbers, digest)


def _remedy(value: Any) -> str:
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return "Is another column meant? If not, give the rows as JSON Lines, with quotes around these values."
    return "Mend or remove the row."


def _show(value: Any) -> str:
    return "nothing" if value is None else f"{value!r:.60} ({type(value).__name__})"
