"""CSV and TSV have no types: which columns are numbers is said by all their cells, and a label stays as it is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ROWS = 100_000
#: How a number is written that is none but a number: ``007`` is a name.
_NUMBER = re.compile(r"-?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")


def types_of(path: Path, options: Mapping[str, Any]) -> dict[str, str]:
    """Return the type of every column: ``int64``, ``float64`` or ``string``.

    Readers guess part by part, and take ``007`` for 7 and ``true`` for a truth value.

    Args:
        path: The file.
        options: Of pandas' reader.

    Raises:
        ValueError: If the rows have more cells than there are columns.
    """
    import pandas as pd

    found: dict[str, str] = {}
    with pd.read_csv(path, dtype=str, chunksize=_ROWS, **options) as parts:
        for part in parts:
            if not isinstance(part.index, pd.RangeIndex):  # the reader takes what is too much for names of rows
                raise ValueError("its rows have more cells than its first line has names")
            found = {name: _type_of(part[name], found.get(name)) for name in part.columns}
    return {name: kind or "string" for name, kind in found.items()}


def _type_of(cells: Any, before: str | None) -> str:
    """Return the type of a column from that of the parts before; empty while it has had no cell."""
    if before == "string":
        return before
    there = cells.dropna()
    if not there.map(_NUMBER.fullmatch).notna().all():
        return "string"
    if not len(there):
        return before or ""
    whole = before != "float64" and len(there) == len(cells) and there.map(_WHOLE.fullmatch).notna().all()
    return "int64" if whole else "float64"
