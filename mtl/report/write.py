"""Writing and showing the report of a run or of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl.errors import BundleError
from mtl.files import read_json, write_text
from mtl.report.plots import plot_curves, plot_tasks, plot_transfer, read_log
from mtl.report.tables import Column, Table, budget_table, columns_of, task_table, transfer_table


def write_report(folder: Path, results: Mapping[str, Any]) -> None:
    """Write ``results.md`` and the plots of a run."""
    for log in sorted(folder.glob("models/*/log.jsonl")):
        plot_curves(read_log(log), folder / "plots" / log.parent.name)
    _write(folder, [Column(results["strategy"], [results])], f"{results['experiment']}: {results['strategy']}")


def write_comparison(folder: Path, comparison: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """Write ``results.md`` and the plots of a comparison."""
    columns = columns_of([cell["point"] for cell in comparison["cells"]], results)
    plot_tasks(columns, folder / "plots" / "tasks.png")
    plot_transfer(columns, folder / "plots" / "transfer.png")
    _write(folder, columns, str(comparison["experiment"]))


def read_results(folder: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Read a run's results, or a comparison with the results of its cells.

    Raises:
        BundleError: If the folder has neither.
    """
    if (folder / "comparison.json").is_file():
        comparison = _read(folder / "comparison.json", {"experiment", "axes", "cells"})
        keys = {"experiment", "strategy", "tasks"}
        return comparison, [_read(folder / cell["folder"] / "results.json", keys) for cell in comparison["cells"]]
    if (folder / "results.json").is_file():
        return None, [_read(folder / "results.json", {"experiment", "strategy", "tasks"})]
    if not folder.is_dir():
        raise BundleError(f"There is no folder {folder}.")
    raise BundleError(f"{folder} has no results: neither results.json nor comparison.json is in it. Has the run finished?")


def _read(path: Path, keys: set[str]) -> dict[str, Any]:
    read = read_json(path, BundleError)
    if not isinstance(read, dict) or not keys <= read.keys():
        raise BundleError(f"{path} is not what mtl run writes: {', '.join(sorted(keys))} are not all in it.")
    return read


def tables_of(comparison: Mapping[str, Any] | None, results: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Return the tables of a run or of a comparison."""
    points = [cell["point"] for cell in comparison["cells"]] if comparison else [{} for _ in results]
    return _tables(columns_of(points, results))


def _tables(columns: Sequence[Column]) -> list[Table]:
    return [table for table in (task_table(columns), transfer_table(columns), budget_table(columns)) if table]


def _write(folder: Path, columns: Sequence[Column], title: str) -> None:
    plots = [f"![{path.stem}](plots/{path.relative_to(folder / 'plots')})" for path in sorted(folder.glob("plots/**/*.png"))]
    parts = [f"# {title}", *(table.markdown() for table in _tables(columns)), *plots]
    write_text(folder / "results.md", "\n\n".join(parts) + "\n")
