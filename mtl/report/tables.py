"""Tables of results, for terminals and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from mtl.compare.bootstrap import Estimate, differences, estimate
from mtl.compare.columns import Column

_BASELINE = "single"


@dataclass(frozen=True)
class Table:
    """A table as texts, with notes below it.

    Attributes:
        title: What it shows.
        columns: Heads of the columns; the first is of names.
        rows: One list of cells a row.
        notes: What a reader must know to read it right.
        figures: Whether the other columns hold figures, or texts too.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    figures: bool = True

    def markdown(self) -> str:
        """Return the table as Markdown."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [f"| {' | '.join(row)} |" for row in (self.columns, rule, *self.rows)]
        return "\n".join([f"## {self.title}", "", *lines, "", *(f"{note}\n" for note in self.notes)])

    def show(self, console: Any) -> None:
        """Print the table to a rich console."""
        from rich.table import Table as RichTable

        table = RichTable(title=self.title, title_justify="left", title_style="bold")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number and self.figures else "left", overflow="fold")
        for row in self.rows:
            table.add_row(
                *(_coloured(cell) if column.startswith("Δ") else cell for column, cell in zip(self.columns, row, strict=True))
            )
        console.print(table)
        for note in self.notes:
            console.print(f"[dim]{note}[/dim]", highlight=False)
        console.print()


def _coloured(cell: str) -> str:
    colour = {"+": "green", "−": "red"}.get(cell[:1])
    return f"[{colour}]{cell}[/{colour}]" if colour else cell


def task_table(columns: Sequence[Column]) -> Table | None:
    """Compare the tasks' primary metrics on the test split, with differences to single-task training."""
    trained = [column for column in columns if any(run["tasks"] for run in column.runs)]
    if not trained:
        return None
    about = {name: values for column in trained for run in column.runs for name, values in run["tasks"].items()}
    baseline = next((column for column in trained if column.runs[0]["strategy"] == _BASELINE), None)
    others = [column for column in trained if baseline is not None and column is not baseline]
    heads = ["task", "metric", "rows", "trivial", *(column.label for column in trained)]
    heads += [f"Δ {column.label}" for column in others]
    rows = []
    for name, values in about.items():
        arrow = "↑" if values["higher_is_better"] else "↓"
        row = [name, f"{values['metric']} {arrow}", str(values["rows"]["test"]), figure(values["trivial"])]
        row += [spread(column.values(name)) for column in trained]
        if baseline is not None:
            row += [difference(column.values(name), baseline.values(name)) for column in others]
        rows.append(row)
    rows.append(_skill_row(trained, baseline, others))
    return Table("Tasks, test split", heads, rows, _task_notes(trained, baseline))


def _skill_row(trained: Sequence[Column], baseline: Column | None, others: Sequence[Column]) -> list[str]:
    def skills(column: Column) -> list[float]:
        return [fmean(task["skill"] for task in run["tasks"].values()) for run in column.runs]

    row = ["all, mean skill", "skill ↑", "", figure(0.0), *(spread(skills(column)) for column in trained)]
    return row if baseline is None else [*row, *(difference(skills(column), skills(baseline)) for column in others)]


def _task_notes(trained: Sequence[Column], baseline: Column | None) -> list[str]:
    notes = ["trivial: the best answer without the text (majority, mean). skill: 0 as trivial, 1 perfect."]
    if baseline is not None:
        notes.append(f"Δ: minus {_BASELINE}, one model a task, which saw as many examples of each task.")
    seeds = min(len(column.runs) for column in trained)
    notes.append(
        "One seed: no interval can be given; small differences may be chance." if seeds == 1 else f"Mean ± sd over {seeds} seeds."
    )
    return notes


def transfer_rows(columns: Sequence[Column]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the transfer figures of every encoder with every adaptation: label → of each run, target → shots → figures."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    several = any(len(by_adaptation) > 1 for run in _transfers(columns) for by_adaptation in run["figures"].values())
    for column in columns:
        for run in column.runs:
            for group, found in run["targets"].items():
                encoder = column.label if len(run["targets"]) == 1 else f"{column.label}: {group}"
                for label in dict.fromkeys(label for by_label in found["figures"].values() for label in by_label):
                    figures = {target: by_label[label] for target, by_label in found["figures"].items()}
                    rows.setdefault(f"{encoder}, {label}" if several else encoder, []).append(figures)
    return rows


def _transfers(columns: Sequence[Column]) -> list[Mapping[str, Any]]:
    return [found for column in columns for run in column.runs for found in run["targets"].values()]


def transfer_table(columns: Sequence[Column]) -> Table | None:
    """Show few-shot transfer of every encoder to every target, with intervals and paired differences."""
    rows_of = transfer_rows(columns)
    if not rows_of:
        return None
    pairs = [(target, shots) for target, by_shots in next(iter(rows_of.values()))[0].items() for shots in by_shots]
    untouched = next((label for label in rows_of if label.split(", ")[0] == "none"), None)
    heads = ["encoder", *(f"{target}, {shots} shots" for target, shots in pairs), *(["Δ mean"] if untouched else [])]
    rows = []
    for label, runs in rows_of.items():
        figures = [[run[target][shots] for run in runs] for target, shots in pairs]
        row = [label, *(interval(values) for values in figures)]
        if untouched is not None:
            base = [[run[target][shots] for run in rows_of[untouched]] for target, shots in pairs]
            row.append("" if label == untouched else _gain(figures, base))
        rows.append(row)
    counts = sorted({len(values) for runs in rows_of.values() for run in runs for by in run.values() for values in by.values()})
    notes = [
        f"Mean over {' to '.join(map(str, counts))} episodes a run, the same ones for every encoder; ± half of the 95 % interval "
        "by hierarchical bootstrap."
    ]
    notes += ["Δ mean: minus the untouched pretrained encoder ('none'), paired by episode."] if untouched else []
    return Table("Transfer to held-out targets", heads, rows, notes)


def _gain(figures: Sequence[Any], base: Sequence[Any]) -> str:
    """Write the mean paired difference over targets and shots with its interval."""
    if any(len(values) != len(other) for values, other in zip(figures, base, strict=True)):
        return "–"
    found = estimate([differences(values, other) for values, other in zip(figures, base, strict=True)])
    return f"{signed(found.mean)}{half_width(found)}"


def interval(values: Sequence[Any]) -> str:
    """Write the mean of nested figures with half of its 95 % interval."""
    found = estimate(values)
    return f"{found.mean:.3f}{half_width(found)}"


def half_width(found: Estimate) -> str:
    """Write half of a 95 % interval; nothing where there is one figure only."""
    return "" if math.isnan(found.low) else f" ±{(found.high - found.low) / 2:.3f}"


def budget_table(columns: Sequence[Column]) -> Table | None:
    """Show how many examples of each task every model has seen."""
    trained = [column for column in columns if any(run["tasks"] for run in column.runs)]
    if not trained:
        return None
    names = list(dict.fromkeys(name for column in trained for run in column.runs for name in run["tasks"]))
    rows = [
        [name, *(str(column.runs[0]["tasks"].get(name, {}).get("examples_seen", "–")) for column in trained)] for name in names
    ]
    return Table("Budget: examples seen, first seed", ["task", *(column.label for column in trained)], rows)


def figure(value: float | None) -> str:
    """Write a figure with three decimals, or a dash where it is not defined."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def spread(values: Sequence[float]) -> str:
    """Write one figure, or mean ± standard deviation of several."""
    if not values:
        return "–"
    return figure(fmean(values)) if len(values) == 1 else f"{fmean(values):.3f} ±{stdev(values):.3f}"


def signed(value: float) -> str:
    """Write a difference with its sign."""
    return "–" if math.isnan(value) else f"{'+' if value >= 0 else '−'}{abs(value):.3f}"


def difference(values: Sequence[float], base: Sequence[float]) -> str:
    """Write the difference of two means."""
    return signed(fmean(values) - fmean(base)) if values and base else "–"
