"""Everything that a report of a run or a grid is made of, read from its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtl.axes import asked_of, label_of
from mtl.compare.affinity import Matrix, gradient_cosines, transfer_gains
from mtl.compare.budget import Spent, spent
from mtl.compare.columns import Column, columns_of
from mtl.compare.figures import Method, of_targets, of_tasks
from mtl.compare.findings import Findings, check_baseline, find
from mtl.errors import BundleError
from mtl.files import read_json
from mtl.report.findings import (
    deviation_table,
    difference_table,
    matrix_table,
    negative_table,
    overall_table,
    same_table,
    score_table,
    spent_table,
    verdict,
)
from mtl.report.plots import read_log
from mtl.report.tables import Table

_TASKS, _TARGETS = "Tasks, test split", "Transfer to held-out targets"
#: What every method is held against where targets are held out; all but the main one have a table of differences too.
_BASELINES = ("none", "joint")


@dataclass(frozen=True)
class Grid:
    """A grid, or a single run as a grid of one.

    Attributes:
        folder: Where it is.
        comparison: Its cells, axes and settings, as it has written them.
        results: Of each cell; ``None`` for those that have none.
        columns: Cells that differ in chance alone, those with results.
        findings: Of the tasks and of the targets, where there are any.
        spent: What each column has used.
        matrices: Affinity of the tasks, of each column that has looked at it.
        beside: Transfer to the targets, held against the other baselines.
    """

    folder: Path
    comparison: Mapping[str, Any]
    results: Sequence[Mapping[str, Any] | None]
    columns: list[Column]
    findings: list[Findings]
    spent: list[Spent]
    matrices: list[Matrix]
    beside: list[Findings]

    @property
    def flagged(self) -> dict[str, bool]:
        """Which columns are out of the common budget."""
        return {each.label: each.broken for each in self.spent}

    @property
    def verdicts(self) -> list[str]:
        """A sentence on each sort of question."""
        return [verdict(found) for found in self.findings]

    @property
    def matched(self) -> tuple[str, float]:
        """The unit that is to be alike, and the tolerance."""
        grid = self.comparison.get("grid", {})
        return grid.get("matched", "examples"), grid.get("tolerance", 0.1)

    @property
    def missing(self) -> list[tuple[str, str]]:
        """Cells without results, and why."""
        cells = zip(self.comparison["cells"], self.results, strict=True)
        return [(_name(cell), cell.get("error") or "not finished") for cell, run in cells if run is None]

    def tables(self) -> list[Table]:
        """Return every table of what was found."""
        found: list[Table | None] = []
        for each in self.findings:
            found += [score_table(each, self.flagged), deviation_table(each), overall_table(each, self.flagged)]
            found += [same_table(each, self.flagged)]
            found += [difference_table(each, self.flagged), negative_table(each)]
        found += [difference_table(each, self.flagged) for each in self.beside]
        found += [matrix_table(matrix) for matrix in self.matrices]
        found += [spent_table(self.spent, *self.matched), self.missing_table()]
        return [table for table in found if table]

    def missing_table(self) -> Table | None:
        """Show the cells without results."""
        title = f"Cells without results: {len(self.missing)} of {len(self.results)}"
        return Table(title, ["cell", "why"], [list(each) for each in self.missing], figures=False) if self.missing else None


def read_grid(folder: Path, comparison: Mapping[str, Any] | None, results: Sequence[Mapping[str, Any] | None]) -> Grid:
    """Read the rest of what a report needs.

    Args:
        folder: Of the run or grid.
        comparison: What a grid has written; ``None`` for a run.
        results: Of each cell.

    Raises:
        MTLError: If a file cannot be read, or the baseline that was asked for is not there.
    """
    only = results[0] or {}
    comparison = comparison or {"experiment": only.get("experiment", ""), "cells": [{"point": {}, "folder": "."}]}
    columns = [column for column in columns_of([cell["point"] for cell in comparison["cells"]], results) if column.runs]
    wanted = comparison.get("grid", {}).get("baseline")
    tasks, targets = of_tasks(columns), of_targets(columns)
    check_baseline(wanted, [*tasks, *targets])
    findings = [
        find(title, methods, wanted if any(method.goes_by(wanted) for method in methods) else usual)
        for title, methods, usual in ((_TASKS, tasks, "single"), (_TARGETS, targets, "none"))
        if methods
    ]
    used = spent_by(folder, comparison, results, columns)
    base = next((found.baseline for found in findings if found.title == _TARGETS), None)
    places = {id(run): place for place, run in _finished(folder, comparison, results)}
    cosines = _cosines({column.label: [places[id(run)] for run in column.runs] for column in columns})
    matrices = [matrix for matrix in (*cosines, transfer_gains(targets, base)) if matrix]
    return Grid(folder, comparison, results, columns, findings, used, matrices, _beside(targets, base))


def _beside(targets: Sequence[Method], base: str | None) -> list[Findings]:
    """Hold every method against the baselines that the main one is not, where there is a third."""
    columns = {method.column for method in targets}
    main = next((method.column for method in targets if method.label == base), None)
    others = [name for name in _BASELINES if name in columns and name != main]
    return [find(_TARGETS, targets, name) for name in others if len(columns) > 2]


def spent_by(
    folder: Path, comparison: Mapping[str, Any], results: Sequence[Mapping[str, Any] | None], columns: Sequence[Column]
) -> list[Spent]:
    """Count what every column of a comparison has used."""
    timings = {run["hash"]: _read(place / "timing.json") for place, run in _finished(folder, comparison, results)}
    matched = comparison.get("grid", {})
    return spent(columns, timings, matched.get("matched", "examples"), matched.get("tolerance", 0.1))


def _finished(
    folder: Path, comparison: Mapping[str, Any], results: Sequence[Mapping[str, Any] | None]
) -> list[tuple[Path, Mapping[str, Any]]]:
    cells = zip(comparison["cells"], results, strict=True)
    return [(folder / cell["folder"], run) for cell, run in cells if run is not None]


def _cosines(places: Mapping[str, Sequence[Path]]) -> list[Matrix]:
    """Return the cosines of the tasks' gradients in the runs of each column that has looked at them.

    Args:
        places: Folders of each column's runs, by its label, which is in the title where there are several matrices.
    """
    by_label = {label: gradient_cosines([look for run in runs for look in _looks(run)]) for label, runs in places.items()}
    found = {label: matrix for label, matrix in by_label.items() if matrix}
    named = len(found) > 1
    return [replace(matrix, title=f"{matrix.title}: {label}") if named else matrix for label, matrix in found.items()]


def _looks(run: Path) -> Iterator[dict[str, Any]]:
    """Yield the cosines of the tasks' gradients that a run has kept, by its strategy or by the plugin of affinity."""
    for path in sorted(run.glob("models/*/affinity.json")):
        yield from _read(path)["looks"]
    for path in sorted(run.glob("models/*/log.jsonl")):
        yield from (line["gradients"] for line in read_log(path) if "gradients" in line)


def _read(path: Path) -> dict[str, Any]:
    return dict(read_json(path, BundleError)) if path.is_file() else {}


def _name(cell: Mapping[str, Any]) -> str:
    point = cell["point"]
    seed = f"seed {point['seed']}" if "seed" in point else ""
    return ", ".join(filter(None, [label_of(point) or str(cell["folder"]), *asked_of(point), seed]))
