"""Tables of results, for terminals and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

from mtl.compare.bootstrap import FEWEST_UNITS, Estimate, differences, estimate
from mtl.compare.columns import Column, Draw
from mtl.compare.figures import Method, Question, in_shots, nested, of_targets, questions_of
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


def transfer_tables(columns: Sequence[Column]) -> list[Table]:
    """Show few-shot transfer of every encoder to every target, with intervals and paired differences.

    One table where it fits a terminal; else one for each target, and one of the mean over targets.
    """
    methods = of_targets(columns)
    asked = questions_of(methods)
    if not asked:
        return []
    counts = sorted({len(values) for method in methods for by_draw in method.figures.values() for values in by_draw.values()})
    untouched = _untouched(methods)
    notes = [
        f"Mean over {' to '.join(map(str, counts))} episodes a run, the same ones for every encoder; ± half of the 95 % interval "
        "by hierarchical bootstrap."
    ]
    abouts = [about for column in columns for run in column.runs for about in run["targets"].values()]
    notes += undefined_note(_figures([about["figures"] for about in abouts]))
    if untouched:
        notes.append(f"Δ mean: minus {untouched.label}, the untouched pretrained encoder, paired by episode.")
        if not all(question.higher_is_better for question in asked):
            notes.append("Where lower is better, less counts as a gain.")
    notes += told_notes(methods)
    notes += few_runs(min(len(column.runs) for column in columns))
    title = "Transfer to held-out targets"
    targets = list(dict.fromkeys(question.task for question in asked))
    heads = {question: question.name for question in asked}
    if len(targets) == 1 or _fits([method.label for method in methods], [*heads.values(), *(["Δ mean"] if untouched else [])]):
        return [_transfer(title, methods, untouched, heads, notes)]
    tables = []
    for target in targets:
        heads = {question: in_shots(question.shots or 0) for question in asked if question.task == target}
        tables.append(_transfer(f"Transfer to {target}", methods, untouched, heads, []))
    by_shots = {
        shots: [question for question in asked if question.shots == shots] for shots in dict.fromkeys(q.shots for q in asked)
    }
    rows = []
    for method in methods:
        parts = [[nested(method.figures[each]) for each in part if each in method.figures] for part in by_shots.values()]
        row = [method.label, *(interval(part) if part else "–" for part in parts)]
        if untouched is not None:
            row.append("" if method is untouched else _gain_over(method, untouched, asked))
        rows.append(row)
    heads_of_mean = ["encoder", *(in_shots(shots or 0) for shots in by_shots), *(["Δ mean"] if untouched else [])]
    notes.insert(1, "Targets are drawn again too: the intervals are for targets like these, not for these alone.")
    return [*tables, Table(f"{title}: mean of {len(targets)}", heads_of_mean, rows, notes)]


def _untouched(methods: Sequence[Method]) -> Method | None:
    """Return the untouched encoder, with nearest prototypes where it was asked so."""
    found = [method for method in methods if method.column.split(", ")[0].split(" (")[0] == "none"]
    return min(found, key=lambda method: not method.adaptation.startswith("prototype"), default=None)


def told_notes(methods: Sequence[Method]) -> list[str]:
    """Return what a reader must know of the adaptations; with whose it is, where not all have the same options."""
    notes: dict[str, None] = {}
    for method in methods:
        others = [other.told for other in methods if other.adaptation == method.adaptation]
        for note in method.told:
            notes[note if all(note in told for told in others) else f"{method.label}: {note}"] = None
    return list(notes)


def _figures(figures: Any) -> Iterator[float | None]:
    """Yield all figures of a run's transfer."""
    if isinstance(figures, Mapping | list):
        for inner in figures.values() if isinstance(figures, Mapping) else figures:
            yield from _figures(inner)
    else:
        yield figures


def _fits(labels: Iterable[str], heads: Sequence[str]) -> bool:
    """Tell whether a table of figures fits a terminal with no word of it broken."""
    columns = [max(len("encoder"), *map(len, labels)), *(max(_FIGURE, *map(len, head.split())) for head in heads)]
    return sum(columns) + 3 * len(columns) + 1 <= _WIDTH


def _transfer(
    title: str, methods: Sequence[Method], untouched: Method | None, heads: Mapping[Question, str], notes: list[str]
) -> Table:
    rows = []
    for method in methods:
        if any(question in method.figures for question in heads):
            cells = [interval(nested(method.figures[each])) if each in method.figures else "–" for each in heads]
            row = [method.label, *cells]
            if untouched is not None:
                row.append("" if method is untouched else _gain_over(method, untouched, list(heads)))
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


def _gain_over(method: Method, untouched: Method, asked: Sequence[Question]) -> str:
    """Write the mean paired difference over questions with its interval: over draws of chance, or the episodes of one."""
    gains: dict[Draw, list[list[float]]] = {}
    for question in asked:
        mine, base = method.figures.get(question, {}), untouched.figures.get(question, {})
        for draw in mine:
            if draw in base and len(mine[draw]) == len(base[draw]):
                found = differences(mine[draw], base[draw])
                gains.setdefault(draw, []).append(found if question.higher_is_better else [-gain for gain in found])
    if not gains:
        return "–"
    if len(gains) > 1:
        over = estimate(nested({draw: [mean_of(each) for each in of_draw] for draw, of_draw in gains.items()}))
        return f"{signed(over.mean)}{half_width(over)}"
    questions = [estimate(each) for of_draw in gains.values() for each in of_draw]
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
