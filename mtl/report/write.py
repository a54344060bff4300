"""Writing and showing the report of a run or of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mtl.compare.columns import Column, columns_of
from mtl.compare.findings import Findings
from mtl.errors import BundleError
from mtl.files import read_json, write_json, write_text
from mtl.report.findings import BROKEN, BROKEN_NOTE
from mtl.report.formats import csv_text, latex_document, slug
from mtl.report.grid import Grid, read_grid, spent_by
from mtl.report.plots import plot_curves, plot_tasks, plot_transfer, read_log
from mtl.report.tables import Table, budget_table, task_table, transfer_tables
from mtl.results import read_results


def write_all(folder: Path, comparison: Mapping[str, Any] | None, results: Sequence[Mapping[str, Any] | None]) -> None:
    """Write the whole report of a run or of a comparison: for a browser, a README, a paper and programs.

    Raises:
        MTLError: If a file of a cell cannot be read.
    """
    from mtl.report.page import write_page

    grid = read_grid(folder, comparison, results)
    tables = grid.tables()
    if comparison is None:
        write_report(folder, results[0] or {})
    else:
        _write_comparison(folder, grid, tables)
    write_page(folder / "report.html", grid)
    for path in (folder / "report").glob("*.csv"):
        path.unlink()  # a table that is no more, as of cells that have been finished since
    write_text(folder / "report" / "tables.tex", latex_document(tables))
    for table in tables:
        write_text(folder / "report" / f"{slug(table.title)}.csv", csv_text(table))
    write_json(folder / "report" / "findings.json", findings_json(grid))


def findings_json(grid: Grid) -> dict[str, Any]:
    """Return everything that was found, for programs."""
    return {
        "experiment": grid.comparison["experiment"],
        "verdicts": grid.verdicts,
        "findings": [_of_findings(found) for found in grid.findings],
        "beside": [_of_findings(found) for found in grid.beside],
        "budgets": [asdict(each) for each in grid.spent],
        "matrices": [asdict(matrix) for matrix in grid.matrices],
        "missing": [{"cell": name, "why": why} for name, why in grid.missing],
    }


def _of_findings(found: Findings) -> dict[str, Any]:
    return {
        "title": found.title,
        "baseline": found.baseline,
        "scores": [
            {"question": vars(question), "method": label, **vars(each)} for (question, label), each in found.scores.items()
        ],
        "differences": [
            {"question": vars(question), "method": label, "verdict": each.verdict, **asdict(each)}
            for (question, label), each in found.differences.items()
        ],
        "overall": [{"method": label, "verdict": each.verdict, **asdict(each)} for label, each in found.overall.items()],
        "same_adaptation": [{"method": label, "verdict": each.verdict, **asdict(each)} for label, each in found.same.items()],
        "ranks": None if found.ranks is None else asdict(found.ranks),
    }


def write_report(folder: Path, results: Mapping[str, Any]) -> None:
    """Write ``results.md`` and the plots of a run."""
    for log in sorted(folder.glob("models/*/log.jsonl")):
        plot_curves(read_log(log), folder / "plots" / log.parent.name)
    tables = _tables(columns_of([{}], [results]), {})
    _write(folder, tables, f"{results['experiment']}: {results['strategy']}")


def _write_comparison(folder: Path, grid: Grid, tables: Sequence[Table]) -> None:
    """Write ``results.md`` and the plots of a comparison."""
    plot_tasks(grid.columns, folder / "plots" / "tasks.png")
    plot_transfer(grid.columns, folder / "plots" / "transfer.png")
    shown = _tables(grid.columns, grid.flagged)
    _write(folder, shown, str(grid.comparison["experiment"]), grid.verdicts, tables)


def read_folder(folder: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any] | None]]:
    """Read a run's results, or a comparison with the results of its cells; ``None`` for those that have none yet.

    Raises:
        BundleError: If the folder has neither.
    """
    if (folder / "comparison.json").is_file():
        comparison = read_json(folder / "comparison.json", BundleError)
        if not _is_comparison(comparison):
            raise BundleError(f"{folder / 'comparison.json'} is not what mtl writes: axes, cells, experiment are not all in it.")
        paths = [folder / cell["folder"] / "results.json" for cell in comparison["cells"]]
        found = [read_results(path, BundleError) if path.is_file() else None for path in paths]
        if not any(found):
            first = f": there is no {paths[0]}" if paths else ""
            raise BundleError(f"{folder}: none of the {len(paths)} cells of the comparison has results{first}. Run it again.")
        return comparison, found
    if (folder / "results.json").is_file():
        return None, [read_results(folder / "results.json", BundleError)]
    if not folder.is_dir():
        raise BundleError(f"There is no folder {folder}.")
    places = (f"{deep}{name}" for deep in ("*/", "*/*/") for name in ("comparison.json", "results.json"))
    below = next((here for place in places if (here := sorted(path.parent for path in folder.glob(place)))), [])
    more = f"Name one of those below it: {', '.join(map(str, below[:5]))}{', …' if len(below) > 5 else ''}."
    advice = more if below else "Has the run finished?"
    raise BundleError(f"{folder} has no results: neither results.json nor comparison.json is in it. {advice}")


def _is_comparison(read: Any) -> bool:
    if not isinstance(read, dict) or not read.keys() >= {"experiment", "axes", "cells"} or not isinstance(read["cells"], list):
        return False
    return all(isinstance(cell, dict) and cell.keys() >= {"point", "folder"} for cell in read["cells"])


def tables_of(folder: Path, comparison: Mapping[str, Any] | None, results: Sequence[Mapping[str, Any] | None]) -> list[Table]:
    """Return the tables of a run or of a comparison."""
    points = [cell["point"] for cell in comparison["cells"]] if comparison else [{} for _ in results]
    columns = [column for column in columns_of(points, results) if column.runs]
    used = spent_by(folder, comparison, results, columns) if comparison else []
    return _tables(columns, {each.label: each.broken for each in used})


def _tables(columns: Sequence[Column], flagged: Mapping[str, bool]) -> list[Table]:
    """Return the tables with what is out of the common budget marked, and n of m where cells are missing."""
    shown = []
    for column in columns:
        mark = BROKEN if flagged.get(column.label) else ""
        part = f" ({len(column.runs)} of {column.planned})" if column.planned > len(column.runs) else ""
        shown.append(replace(column, label=f"{column.label}{mark}{part}"))
    tables = [table for table in (task_table(shown), *transfer_tables(shown), budget_table(shown)) if table]
    return [replace(table, notes=[*table.notes, BROKEN_NOTE]) if table.mentions(BROKEN) else table for table in tables]


def _write(folder: Path, tables: Sequence[Table], title: str, verdicts: Sequence[str] = (), found: Sequence[Table] = ()) -> None:
    plots = [f"![{path.stem}](plots/{path.relative_to(folder / 'plots')})" for path in sorted(folder.glob("plots/**/*.png"))]
    parts = [f"# {title}", *verdicts, *(table.markdown() for table in [*tables, *found]), *plots]
    write_text(folder / "results.md", "\n\n".join(parts) + "\n")
