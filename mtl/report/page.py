"""The page: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mtl.data.features import default_cache
from mtl.errors import BundleError
from mtl.files import read_json, write_text
from mtl.report.charts import (
    Chart,
    confusion_chart,
    cost_chart,
    curves_chart,
    gains_chart,
    matrix_chart,
    ranks_chart,
    shots_chart,
    vega_lite_version,
)
from mtl.report.findings import difference_table, matrix_table, negative_table, overall_table, score_table, spent_table
from mtl.report.formats import slug
from mtl.report.grid import Grid
from mtl.report.plots import read_log
from mtl.report.tables import Table

_HERE = Path(__file__).parent
#: Points of a training's curve that are drawn, and columns whose trainings are.
_POINTS, _MOST_COLUMNS = 40, 8
#: Labels of a confusion matrix and curves of a task that can still be read, and keep the page small.
_MOST_LABELS, _MOST_CURVES = 30, 8


@dataclass
class Section:
    """A part of the page.

    Attributes:
        title: Its heading.
        texts: Paragraphs.
        tables: Tables.
        charts: Charts.
        code: What is to be copied.
    """

    title: str
    texts: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    code: list[str] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Its place in links."""
        return slug(self.title)


def write_page(path: Path, grid: Grid) -> None:
    """Write the report of a grid, or of a run, as one HTML file that works from disk."""
    verdicts = grid.verdicts or ["There are no results yet."]
    write_sections(path, str(grid.comparison["experiment"]), _question(grid), verdicts, _sections(grid))


def write_sections(path: Path, title: str, question: str, verdicts: Sequence[str], sections: Sequence[Section]) -> None:
    """Write parts as one HTML file that works from disk; those that are empty are left out."""
    from jinja2 import Environment, FileSystemLoader

    sections = [section for section in sections if section.texts or section.tables or section.charts or section.code]
    specs = [chart.spec for section in sections for chart in section.charts]
    place = iter(range(len(specs)))
    shown = [
        {**vars(section), "anchor": section.anchor, "charts": [(next(place), c) for c in section.charts]} for section in sections
    ]
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    table = environment.get_template("table.html.j2")

    def show(each: Table, titled: bool = True) -> Any:
        return _safe(table.render(table=each, titled=titled))

    html = environment.get_template("page.html.j2").render(
        title=title,
        question=question,
        verdicts=verdicts,
        sections=shown,
        show=show,
        style=_safe((_HERE / "page.css").read_text(encoding="utf-8")),
        script=_safe((_HERE / "page.js").read_text(encoding="utf-8")),
        specs=_safe(_inline(json.dumps(specs, ensure_ascii=False, allow_nan=False))),
        library=_safe(_library() if specs else ""),
    )
    write_text(path, html)


def _question(grid: Grid) -> str:
    axes = grid.comparison.get("axes") or {}
    varied = ", ".join(f"{axis} ({len(values)})" for axis, values in axes.items())
    of = f"{len(grid.results) - len(grid.missing)} of {len(grid.results)} cells"
    return f"Was it worth it? {of}{' over ' + varied if varied else ''}."


def _sections(grid: Grid) -> list[Section]:
    sections = []
    for found in grid.findings:
        tables = [score_table(found, grid.flagged), overall_table(found, grid.flagged)]
        charts = [gains_chart(found), ranks_chart(found), shots_chart(found)]
        beside = [each for each in grid.beside if each.title == found.title]
        details = [*(difference_table(each, grid.flagged) for each in (found, *beside)), negative_table(found)]
        sections += [
            Section(found.title, [], _present(tables), _present(charts)),
            Section(f"{found.title}: details", [], _present(details)),
        ]
    affinity = Section("Which tasks help which", [], [matrix_table(matrix) for matrix in grid.matrices])
    affinity.charts = [matrix_chart(matrix) for matrix in grid.matrices]
    costs = [
        cost_chart(found, grid.spent, unit, title)
        for found in grid.findings
        for unit, title in (("seconds", "seconds of training"), ("parameters", "parameters trained"))
    ]
    budgets = Section("Budgets and costs", [], _present([spent_table(grid.spent, *grid.matched)]), _present(costs))
    failed = Section("Cells without results", [], _present([grid.missing_table()]))
    return [*sections, affinity, budgets, _answers(grid), _trainings(grid), failed, _origin(grid)]


def _answers(grid: Grid) -> Section:
    """Show confusion matrices and ROC curves of each column's first run, for its tasks and for its targets."""
    section = Section("Confusion and ROC")
    for column in grid.columns[:_MOST_COLUMNS]:
        rows = []
        for name, found in _looked_at(column.runs[0]):
            confusion, curves = found.get("confusion_matrix"), found.get("roc_curve") or {}
            if confusion and len(confusion["labels"]) <= _MOST_LABELS:
                section.charts.append(confusion_chart(f"{name}, {column.label}", confusion))
            drawn = curves if len(curves) <= _MOST_CURVES else {f"mean of {len(curves)} labels": mean_curve(curves.values())}
            for label, curve in drawn.items():
                rows += [{"task": f"{name}: {label}", "false positives": x, "true positives": y} for x, y in curve]
        chart = curves_chart(f"ROC: {column.label}", rows, "false positives", "true positives", diagonal=True)
        section.charts += _present([chart])
    if section.charts:
        limits = f" Confusion of at most {_MOST_LABELS} labels, ROC a mean where they are more than {_MOST_CURVES};"
        limits += " results.json has the rest."
        targets = " Targets with the most shots, over all episodes." if grid.columns[0].runs[0]["targets"] else ""
        section.texts.append("Of the first seed of each method." + targets + limits + _only(grid))
    return section


def mean_curve(curves: Collection[Sequence[Sequence[float]]]) -> list[tuple[float, float]]:
    """Return the mean of ROC curves, each a list of (false positives, true positives), at 21 rates of false positives.

    "Vertical averaging", Fawcett 2006, An introduction to ROC analysis, Pattern Recognition Letters 27:861, section 9.1.
    """
    import numpy as np

    rates = np.linspace(0, 1, 21)
    # Where a curve rises at one rate its highest point counts: np.interp takes the last of several.
    heights = np.mean([np.interp(rates, *np.transpose(curve)) for curve in curves], axis=0)
    return [(0.0, 0.0), *zip(rates.round(4).tolist(), heights.round(4).tolist(), strict=True)]


def _looked_at(run: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield what is to be looked at of a run's tasks, and of the targets of its first model by its first adaptation."""
    for task, about in run["tasks"].items():
        yield task, about["test"]
    for transferred in list(run["targets"].values())[:1]:
        for target, by_adaptation in transferred.get("looked_at", {}).items():
            yield target, next(iter(by_adaptation.values()), {})


def _trainings(grid: Grid) -> Section:
    """Show losses and validation skill of the first run of each column."""
    section = Section("Trainings")
    cells = zip(grid.comparison["cells"], grid.results, strict=True)
    places = {id(run): grid.folder / cell["folder"] for cell, run in cells if run is not None}
    for column in grid.columns[:_MOST_COLUMNS]:
        log = [line for path in sorted(places[id(column.runs[0])].glob("models/*/log.jsonl")) for line in read_log(path)]
        for key, title in (("loss", "training loss per unit"), ("skill", "validation skill")):
            rows = _thinned([line for line in log if key in line], key)
            section.charts += _present([curves_chart(f"{column.label}: {title}", rows, "examples", key)])
    if section.charts:
        section.texts.append(f"Of the first seed of each method, at most {_POINTS} points a curve." + _only(grid))
    return section


def _thinned(log: Sequence[Mapping[str, Any]], key: str) -> list[dict[str, Any]]:
    """Return means of neighbouring points of each task's curve, at most so many as are drawn."""
    series: dict[str, list[tuple[int, float]]] = {}
    for line in log:
        for task, value in line[key].items():
            if value is not None:
                series.setdefault(task, []).append((line["examples"], value))
    rows = []
    for task, points in series.items():
        width = -(-len(points) // _POINTS)
        for start in range(0, len(points), width):
            part = points[start : start + width]
            rows.append({"task": task, "examples": part[-1][0], key: sum(value for _, value in part) / len(part)})
    return rows


def _origin(grid: Grid) -> Section:
    """Show the environment of the first cell with results, and the command."""
    section = Section("How this was made")
    done = [grid.folder / cell["folder"] for cell, run in zip(grid.comparison["cells"], grid.results, strict=True) if run]
    path = done[0] / "environment.json" if done else Path()
    about = read_json(path, BundleError) if path.is_file() else {}
    packages = about.pop("packages", {})
    command = grid.comparison.get("command") or about.pop("command", [])
    about.pop("command", None)
    rows = [[str(key), json.dumps(value, ensure_ascii=False).strip('"')] for key, value in {**about, **packages}.items()]
    if rows:
        section.tables.append(Table("Environment of the first cell", ["what", "value"], rows, figures=False))
    if command:
        section.texts.append("The same command shows this again, and runs only what is not finished:")
        section.code.append(" ".join(map(str, command)))
    return section


def _only(grid: Grid) -> str:
    more = len(grid.columns) - _MOST_COLUMNS
    return f" The first {_MOST_COLUMNS} of {len(grid.columns)} methods." if more > 0 else ""


def _present(found: Sequence[Any]) -> list[Any]:
    return [each for each in found if each]


def _safe(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)  # noqa: S704  # our own files, and JSON that _inline has made harmless


def _inline(text: str) -> str:
    """Let no text of a chart end the script that it is in."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def _library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script. Making it takes seconds, so it is kept."""
    drawn_by = vega_lite_version()
    path = default_cache() / f"vega-{version('vl-convert-python')}-{drawn_by}.js"
    if not path.is_file():
        import vl_convert

        script = vl_convert.javascript_bundle(vl_version=drawn_by)  # type: ignore[call-arg]  # its stub asks for more
        write_text(path, script.replace("</script", "<\\/script"))
    return path.read_text(encoding="utf-8")
