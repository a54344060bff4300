"""Looking at a file of rows before a task is made of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtl.data.tables import read_columns
from mtl.errors import DataError
from mtl.kind import TaskKind

_FEW_NAMES = 200
_PAIR = ("text", "text_pair")


@dataclass(frozen=True)
class Look:
    """What a file holds.

    Attributes:
        path: The file.
        columns: Name → values.
    """

    path: Path
    columns: dict[str, list[Any]]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return max(map(len, self.columns.values()), default=0)

    def lines(self, mapping: dict[str, str]) -> list[str]:
        """Return what a person should know before training on it, a sentence a line."""
        found = [f"{self.path}: {self.rows} rows, columns {', '.join(self.columns)}."]
        for role, column in mapping.items():
            found += _about(role, column, self.columns[column])
        whole = Counter(map(repr, zip(*self.columns.values(), strict=True)))
        if repeated := self.rows - len(whole):
            found.append(f"{repeated} rows are there more than once.")
        return found


def look_at(path: Path) -> Look:
    """Read a file of rows.

    Raises:
        DataError: If it cannot be read or has no rows.
    """
    columns = read_columns(path)
    look = Look(path, columns)
    if not look.rows:
        raise DataError(f"{path} has no rows.")
    return look


def propose(look: Look, kind: type[TaskKind]) -> dict[str, str]:
    """Return role → column: a column of the role's name, else one whose values are most like the role's in the sample.

    Raises:
        DataError: If no column is left for a role that must be there.
    """
    sample = kind.sample().get("data", [{}])[0]
    free = [column for column in look.columns if column not in kind.roles]
    mapping = {role: role for role in kind.roles if role in look.columns}
    optional = {role for role, must in kind.roles.items() if not must}
    otherwise = any(role in mapping for role in optional - set(sample))  # than the sample does, as with a text and its spans
    wanted = [role for role in kind.roles if role not in mapping and (role not in optional or (role in sample and not otherwise))]
    for role in wanted:
        fitting = [column for column in free if _fits(look.columns[column], sample.get(role), role in kind.target_roles)]
        if not fitting:
            has = ", ".join(look.columns)
            raise DataError(f"{look.path}: no column is like {role!r} of this kind. It has: {has}. Rename one to {role!r}.")
        best = max(fitting, key=lambda column: _weight(look.columns[column], role in kind.target_roles))
        mapping[role] = best
        free.remove(best)
    if set(_PAIR) <= set(wanted):  # the longest was taken first; a pair is in the file's order
        mapping |= zip(_PAIR, sorted((mapping[role] for role in _PAIR), key=list(look.columns).index), strict=True)
    return {role: mapping[role] for role in kind.roles if role in mapping}


def _fits(values: list[Any], example: Any, is_target: bool) -> bool:
    there = [value for value in values if value is not None]
    if isinstance(example, str) and is_target:
        return bool(there) and all(isinstance(value, str | int | bool) for value in there)
    if isinstance(example, float):
        return bool(there) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in there)
    return bool(there) and all(isinstance(value, type(example)) for value in there)


def _weight(values: list[Any], is_target: bool) -> float:
    """Rank columns for a role: a target has few different values, a text has many words."""
    if is_target:
        return -len(set(map(repr, values)))
    return sum(len(str(value)) for value in values) / max(1, len(values))


def _about(role: str, column: str, values: list[Any]) -> list[str]:
    found = []
    empty = sum(value is None or value == [] or (isinstance(value, str) and not value.strip()) for value in values)
    if empty:
        found.append(f"{column!r} is empty in {empty} rows; they will be refused. Fill them in or remove them.")
    there = [value for value in values if isinstance(value, str | int | bool)]
    names = Counter(map(str, there))
    texts = [value for value in values if isinstance(value, str)]
    if texts and len(names) > min(_FEW_NAMES, len(values) / 2):
        lengths = sorted(len(text.split()) for text in texts)
        found.append(f"{column!r} as {role}: {lengths[len(lengths) // 2]} words in the middle, {lengths[-1]} at most.")
    elif names:
        common = ", ".join(f"{name} {count}" for name, count in names.most_common(5))
        found.append(f"{column!r} as {role}: {len(names)} names, of which most often {common}.")
        if (rare := min(names.values())) * 20 < max(names.values()):
            found.append(f"The names of {column!r} are far from even ({rare} to {max(names.values())} rows): look at macro_f1.")
    return found
