"""A task's splits: what is read, kept, cut and called by the kind's roles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mtl.data.rows import Rows
from mtl.data.tables import Table, digest_of, mixed_types, read_file, read_tables, resolve
from mtl.errors import DataError, did_you_mean
from mtl.task import SPLITS, Split, Task

#: A split that the data do not have is cut from train: a tenth of its distinct rows, in the order of their hashes.
_CUT_SHARE = 10


def load_splits(task: Task, roles: dict[str, bool], base: Path) -> dict[Split, Rows]:
    """Read a task's three splits, columns renamed to roles.

    Args:
        task: The declaration.
        roles: The kind's column roles and whether each must be there.
        base: The folder that relative paths start from.

    Raises:
        DataError: If data are missing, cannot be read, lack a column, or a split is empty.
    """
    tables = read_tables(task.data, base)
    if "train" not in tables:
        raise DataError(f"Task {task.name!r} has no train split. Found: {', '.join(tables) or 'none'}.")
    tables = {split: _keep_where(table, task, split) for split, table in tables.items()}
    for split, table in tables.items():
        if not len(table.dataset):
            raise DataError(f"Task {task.name!r}: the {split} split ({table.source}) has no rows{_because_of(task)}.")
        _check_columns(table, task, roles)
    tables = _cut_missing(tables)
    rows = {}
    for split in SPLITS:
        table, limit = tables[split], task.row_limit(split)
        if limit is not None and limit < len(table.dataset):
            table = table.select(range(limit), f"first {limit}")
        if not len(table.dataset):
            raise DataError(
                f"Task {task.name!r}: {table.source} has too few different rows: none is left for {split} when the splits that "
                "are missing are cut from it. Give more rows, or a file for each split."
            )
        rows[split] = _as_rows(table, task, roles)
    return rows


def load_file(task: Task, path: str, roles: dict[str, bool], base: Path) -> Rows:
    """Read one more file of a task, such as a support set that came with the data.

    Args:
        task: Says how the rows are to be read.
        path: The file.
        roles: The kind's column roles and whether each must be there.
        base: The folder that a relative path starts from.

    Raises:
        DataError: If it is missing, cannot be read, lacks a column, or is empty.
    """
    table = read_file(resolve(path, base))
    if not len(table.dataset):
        raise DataError(f"Task {task.name!r}: {table.source} has no rows; a support needs some.")
    _check_columns(table, task, roles)
    return _as_rows(table, task, roles)


def _keep_where(table: Table, task: Task, split: str) -> Table:
    for column, wanted in task.where.items():
        _must_have(table, column, f"Task {task.name!r}, 'where'", "Mend the column's name there.")
        values: set[str] = set()
        kept = []
        for index, value in enumerate(map(str, table.column(column))):
            values.add(value)
            if value in wanted:
                kept.append(index)
        absent = sorted(set(wanted) - values)
        if absent and split == "train":
            near = did_you_mean(absent[0], values)
            raise DataError(f"Task {task.name!r}: no row of {table.source} has {column!r} = {absent[0]!r}. {near}".strip())
        table = table.select(kept, f"{column} in {sorted(wanted)}")
    return table


def _cut_missing(tables: dict[Split, Table]) -> dict[Split, Table]:
    """Cut the splits that are not there from train, so that equal rows always fall on the same side."""
    missing = [split for split in SPLITS if split not in tables]
    train = tables["train"]
    if not missing:
        return tables
    # The first 16 of 64 digits, as numbers: of the same order, and eight bytes a row.
    digests = np.fromiter(map(_row_digest, train.dataset), np.uint64, len(train.dataset))
    distinct = np.unique(digests)
    side = np.searchsorted(distinct, digests) // max(1, len(distinct) // _CUT_SHARE)
    parts = {split: np.flatnonzero(side == number) for number, split in enumerate(missing)}
    parts["train"] = np.flatnonzero(side >= len(missing))
    cut = {split: train.select(indices, f"cut for {split}") for split, indices in parts.items()}
    return {**tables, **cut}


def _as_rows(table: Table, task: Task, roles: dict[str, bool]) -> Rows:
    names = {role: task.columns.get(role, role) for role in roles}
    columns = {role: table.column(name) for role, name in names.items() if name in table.dataset.column_names}
    return Rows(columns, table.source, table.numbers, table.fingerprint, tuple(table.files), task.columns)


def _check_columns(table: Table, task: Task, roles: dict[str, bool]) -> None:
    for role, required in roles.items():
        column = task.columns.get(role, role)
        if required or role in task.columns:
            _must_have(
                table,
                column,
                f"Task {task.name!r}, role {role!r}",
                f"Say which it is: columns: {{{role}: NAME}}, or --column {role}=NAME.",
            )
        if type(table.dataset.features.get(column)).__name__ == "Json":  # so `datasets` reads what is not of one type
            values = zip(table.numbers, table.dataset[column], strict=True)
            if fault := mixed_types(((number, {column: value}) for number, value in values), "row"):
                raise DataError(f"{table.source}: {fault}")


def _must_have(table: Table, column: str, who: str, advice: str) -> None:
    names = table.dataset.column_names
    if column not in names and len(table.dataset):
        near = did_you_mean(column, names)
        found = f"It has: {', '.join(names)}."
        raise DataError(" ".join(filter(None, [f"{who}: {table.source} has no column {column!r}.", near, found, advice])))


def _because_of(task: Task) -> str:
    kept = " and ".join(f"{column!r} is {' or '.join(map(repr, wanted))}" for column, wanted in task.where.items())
    return f" left, as 'where' keeps those whose {kept}" if task.where else ""


def _row_digest(row: Mapping[str, Any]) -> int:
    return int(digest_of(json.dumps(row, sort_keys=True, default=str))[:16], 16)
