"""Tables of results, for terminals and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

from mtl.compare.bootstrap import FEWEST_UNITS, Estimate, differences, estimate
from mtl.compare.columns import Column
from mtl.compare.figures import in_shots, told_of
from mtl.metrics import mean_of, number

_BASELINE = "single"
#: What fits a terminal, and what a figure with its interval takes of it.
_WIDTH, _FIGURE = 80, len("0.000 ±0.000")
#: More columns than this fit no page.
_MOST_COLUMNS = 12


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

    def mentions(self, text: str) -> bool:
        """Tell whether a text is in a head or in the name of a row."""
        return any(text in name for name in [*self.columns, *(row[0] for row in self.rows)])

    def upright(self) -> Table:
        """Return the table with rows and columns changed, if it has more columns than fit a page and fewer rows than those."""
        if len(self.columns) <= max(_MOST_COLUMNS, len(self.rows) + 1):
            return self
        (head, *columns), *rows = ([str(cell) for cell in line] for line in zip(self.columns, *self.rows, strict=True))
        return replace(self, columns=[head, *columns], rows=rows)

    def markdown(self) -> str:
        """Return the table as Markdown."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [f"| {' | '.join(row)} |" for row in (self.columns, rule, *self.rows)]
        return "\n".join([f"## {self.title}", "", *lines, "", *(f"{note}\n" for note in self.notes)])

    def show(self, console: Any) -> None:
        """Print the table to a rich console."""
        from rich.table import Table as RichTable

        table = RichTable(title=self.title, title_justify="left", title_style="bold")
        for place, column in enumerate(self.columns):
            table.add_column(column, justify="right" if place and self.figures else "left", overflow="fold")
        for row in self.rows:
            changes = [name.startswith("Δ") or row[0].startswith("Δ") for name in self.columns]
            table.add_row(*(_coloured(cell) if change else cell for change, cell in zip(changes, row, strict=True)))
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
    return Table("Tasks, test split", heads, rows, _task_notes(trained, baseline)).upright()


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
                for label in _labels(found):
                    figures = {target: by_label[label] for target, by_label in found["figures"].items()}
                    rows.setdefault(f"{encoder}, {label}" if several else encoder, []).append(figures)
    return rows


def questions_of(rows_of: Mapping[str, list[Mapping[str, Any]]]) -> list[tuple[str, str]]:
    """Return every target with every number of shots that an encoder was asked, in order."""
    found = ((target, shots) for runs in rows_of.values() for run in runs for target in run for shots in run[target])
    return list(dict.fromkeys(found))


def _labels(transfer: Mapping[str, Any]) -> list[str]:
    """Return the adaptations of a run's transfer."""
    return list(dict.fromkeys(label for by_label in transfer["figures"].values() for label in by_label))


def _transfers(columns: Sequence[Column]) -> list[Mapping[str, Any]]:
    return [found for column in columns for run in column.runs for found in run["targets"].values()]


def transfer_tables(columns: Sequence[Column]) -> list[Table]:
    """Show few-shot transfer of every encoder to every target, with intervals and paired differences.

    One table where it fits a terminal; else one for each target, and one of the mean over targets.
    """
    rows_of = transfer_rows(columns)
    asked = questions_of(rows_of)
    if not asked:
        return []
    counts = sorted({len(values) for runs in rows_of.values() for run in runs for by in run.values() for values in by.values()})
    untouched = next((label for label in rows_of if label.split(", ")[0].split(" (")[0] == "none"), None)
    notes = [
        f"Mean over {' to '.join(map(str, counts))} episodes a run, the same ones for every encoder; ± half of the 95 % interval "
        "by hierarchical bootstrap."
    ]
    by_shots = [by for runs in rows_of.values() for run in runs for by in run.values()]
    notes += undefined_note(value for by in by_shots for values in by.values() for value in values)
    notes += [f"Δ mean: minus {untouched}, the untouched pretrained encoder, paired by episode."] if untouched else []
    notes += dict.fromkeys(note for about in _transfers(columns) for label in _labels(about) for note in told_of(about, label))
    notes += few_runs(min(len(column.runs) for column in columns))
    title = "Transfer to held-out targets"
    targets = list(dict.fromkeys(target for target, _ in asked))
    heads = {(target, shots): f"{target}, {in_shots(shots)}" for target, shots in asked}
    if len(targets) == 1 or _fits(rows_of, [*heads.values(), *(["Δ mean"] if untouched else [])]):
        return [_transfer(title, rows_of, untouched, heads, notes)]
    tables = []
    for target in targets:
        heads = {(target, shots): in_shots(shots) for name, shots in asked if name == target}
        tables.append(_transfer(f"Transfer to {target}", rows_of, untouched, heads, []))
    shots_of = list(dict.fromkeys(shots for _, shots in asked))
    rows = []
    for label in rows_of:
        parts = [[_figures(rows_of[label], target, shots) for target in targets] for shots in shots_of]
        row = [label, *(interval([values for values in part if values]) for part in parts)]
        if untouched is not None:
            row.append("" if label == untouched else _gain_over(rows_of, label, untouched, asked))
        rows.append(row)
    heads_of_mean = ["encoder", *map(in_shots, shots_of), *(["Δ mean"] if untouched else [])]
    notes.insert(1, "Targets are drawn again too: the intervals are for targets like these, not for these alone.")
    return [*tables, Table(f"{title}: mean of {len(targets)}", heads_of_mean, rows, notes)]


def _fits(labels: Iterable[str], heads: Sequence[str]) -> bool:
    """Tell whether a table of figures fits a terminal with no word of it broken."""
    columns = [max(len("encoder"), *map(len, labels)), *(max(_FIGURE, *map(len, head.split())) for head in heads)]
    return sum(columns) + 3 * len(columns) + 1 <= _WIDTH


def _transfer(
    title: str,
    rows_of: Mapping[str, list[Mapping[str, Any]]],
    untouched: str | None,
    heads: Mapping[tuple[str, str], str],
    notes: list[str],
) -> Table:
    rows = []
    for label, runs in rows_of.items():
        figures = [_figures(runs, target, shots) for target, shots in heads]
        if any(figures):
            row = [label, *(interval(values) if values else "–" for values in figures)]
            if untouched is not None:
                row.append("" if label == untouched else _gain_over(rows_of, label, untouched, list(heads)))
            rows.append(row)
    return Table(title, ["encoder", *heads.values(), *(["Δ mean"] if untouched else [])], rows, notes)


def few_runs(runs: int) -> list[str]:
    """Warn where too few runs have been made for intervals to be relied on."""
    if runs >= FEWEST_UNITS:
        return []
    return [
        f"UNRELIABLE: {runs} seed{'' if runs == 1 else 's'}. Intervals say little of what another training would give; run at "
        f"least {FEWEST_UNITS}."
    ]


def undefined_note(values: Iterable[float | None]) -> list[str]:
    """Say how many figures are not defined, if some are not."""
    count = sum(math.isnan(number(value)) for value in values)
    if not count:
        return []
    return [f"{count} figures are not defined, as a correlation with a constant is not. They are left out, and so is their pair."]


def _figures(runs: Sequence[Mapping[str, Any]], target: str, shots: str) -> list[Any]:
    return [run[target][shots] for run in runs if shots in run.get(target, {})]


def _gain_over(
    rows_of: Mapping[str, list[Mapping[str, Any]]], label: str, untouched: str, asked: Sequence[tuple[str, str]]
) -> str:
    """Write the mean paired difference over targets and shots with its interval: over runs, or over the episodes of one."""
    if len(rows_of[label]) != len(rows_of[untouched]):
        return "–"
    runs = []
    for mine, base in zip(rows_of[label], rows_of[untouched], strict=True):
        answered = [each for each in asked if all(each[1] in run.get(each[0], {}) for run in (mine, base))]
        both = [(mine[target][shots], base[target][shots]) for target, shots in answered]
        if any(len(values) != len(other) for values, other in both):
            return "–"
        if both:
            runs.append([differences(values, other) for values, other in both])
    if not runs:
        return "–"
    if len(runs) > 1:
        found = estimate([[mean_of(gains) for gains in gains_of] for gains_of in runs])
        return f"{signed(found.mean)}{half_width(found)}"
    questions = [estimate(gains) for gains in runs[0]]
    # What the episodes of one question say of another one is nothing, once the encoder is given: variances add up.
    questions = [each for each in questions if not math.isnan(each.mean)]
    if not questions:
        return "–"
    halves = [half for each in questions if not math.isnan(half := (each.high - each.low) / 2)]
    half = math.hypot(*halves) / len(questions) if halves else math.nan
    return f"{signed(fmean(each.mean for each in questions))}{_half(half)}"


def interval(values: Sequence[Any]) -> str:
    """Write the mean of nested figures with half of its 95 % interval."""
    found = estimate(values)
    return f"{figure(found.mean)}{half_width(found)}"


def half_width(found: Estimate) -> str:
    """Write half of a 95 % interval; nothing where there is one figure only."""
    return _half((found.high - found.low) / 2)


def _half(width: float) -> str:
    return "" if math.isnan(width) else f" ±{width:.3f}"


def budget_table(columns: Sequence[Column]) -> Table | None:
    """Show how many examples of each task every model has seen."""
    trained = [column for column in columns if any(run["tasks"] for run in column.runs)]
    if not trained:
        return None
    names = list(dict.fromkeys(name for column in trained for run in column.runs for name in run["tasks"]))
    rows = [
        [name, *(str(column.runs[0]["tasks"].get(name, {}).get("examples_seen", "–")) for column in trained)] for name in names
    ]
    return Table("Budget: examples seen, first seed", ["task", *(column.label for column in trained)], rows).upright()


def figure(value: float | None) -> str:
    """Write a figure with three decimals, or a dash where it is not defined."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}".replace("-", "−")


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
