"""Cells can be compared if they are asked the same: checked by what is declared before they run, by the rows after."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mtl.axes import is_asked, label_of
from mtl.errors import CheckpointError, GridError, did_you_mean
from mtl.files import read_json
from mtl.grid.cell import Cell

#: What of a task's declaration changes how it is learned and not what is asked.
_OF_TRAINING = {"weight"}


def check_declared(cells: Sequence[Cell]) -> None:
    """Check that a task of one name is declared alike in all cells, and that targets are asked by one protocol.

    Raises:
        GridError: If not; names two cells and what differs.
    """
    _check_alike(cells, _declared, "is declared in two ways")


def check_baseline(cells: Sequence[Cell], wanted: str | None) -> None:
    """Check that the baseline that is asked for can be among the methods, before hours of work.

    Raises:
        GridError: If no cell has its label, or one that it goes on from: ``single: mood`` is a model of ``single``.
    """
    labels = list(dict.fromkeys(label_of(cell.point) or cell.config.strategy.name for cell in cells))
    if wanted is None or any(wanted == label or wanted.startswith((f"{label}:", f"{label},")) for label in labels):
        return
    said = [f"compare.baseline: there is no {wanted!r}.", did_you_mean(wanted, labels), f"There are: {', '.join(labels)}."]
    raise GridError(" ".join(filter(None, said)))


def check_rows(cells: Sequence[Cell]) -> None:
    """Check that the test rows of every task are the same in all cells that have begun.

    Raises:
        GridError: If not; names two cells and the task.
    """
    _check_alike(cells, _rows, "has other test rows")


def _check_alike(cells: Sequence[Cell], of: Any, how: str) -> None:
    seen: dict[tuple[str, str], tuple[Cell, str]] = {}
    for cell in cells:
        drawn = json.dumps({axis: value for axis, value in cell.point.items() if is_asked(axis)}, sort_keys=True)
        for name, about in of(cell):
            other, before = seen.setdefault((drawn, name), (cell, about))
            if about != before:
                raise GridError(
                    f"Cells {other.name!r} and {cell.name!r} cannot be compared: {name} {how}. Take the axis that changes it "
                    "out of 'compare', or make it a value of 'define', which is a draw of chance as a seed is."
                )


def _declared(cell: Cell) -> Iterator[tuple[str, str]]:
    for task in cell.config.tasks:
        if not isinstance(task, str):
            yield f"task {task.name!r}", task.model_dump_json(exclude=_OF_TRAINING)
    if cell.config.targets:
        yield "targets.protocol", cell.config.targets.protocol.model_dump_json()


def _rows(cell: Cell) -> Iterator[tuple[str, str]]:
    path = cell.folder / "data.json"
    data: Mapping[str, Mapping[str, Any]] = read_json(path, CheckpointError) if path.is_file() else {}
    for name, splits in data.items():
        if "test" in splits:
            yield f"task {name!r}", str(splits["test"]["fingerprint"])
