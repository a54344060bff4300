"""Charts of a grid for the page. The one importer of `altair`; each chart comes with its numbers as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtl.compare.affinity import Matrix
from mtl.compare.bootstrap import Estimate
from mtl.compare.budget import Spent
from mtl.compare.findings import Findings
from mtl.report.tables import Table

#: Okabe & Ito's palette, told apart by colour-blind readers; those that can be seen on light and on dark ground.
_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#A6761D"]
_HEIGHT = 26


@dataclass(frozen=True)
class Chart:
    """A chart and its numbers.

    Attributes:
        title: What it shows.
        spec: The chart in Vega-Lite.
        table: Every number in it.
    """

    title: str
    spec: Mapping[str, Any]
    table: Table


def gains_chart(findings: Findings) -> Chart | None:
    """Draw every gain over the baseline with its 95 % interval."""
    import altair as alt

    rows = [
        {"question": question.name, "method": label, "gain": each.gain.mean, **_ends(each.gain)}
        for (question, label), each in findings.differences.items()
    ]
    if not rows:
        return None
    title = f"{findings.title}: gain over {findings.baseline}, 95 % interval"
    methods = list(dict.fromkeys(row["method"] for row in rows))
    base = alt.Chart().encode(  # the data are the facet's
        y=alt.Y("method:N", sort=methods, title=None, axis=alt.Axis(labelLimit=160)),
        color=alt.Color("method:N", sort=methods, scale=alt.Scale(range=_COLOURS), legend=None),
        tooltip=_tooltips(rows),
    )
    layers = alt.layer(
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title="gain, positive is better"), x2="high:Q"),
        base.mark_point(filled=True, size=60, opacity=1).encode(x="gain:Q"),
        alt.Chart(_data([{"zero": 0.0}])).mark_rule(strokeDash=[4, 4], color="#888").encode(x="zero:Q"),
        data=_data(rows),
    ).properties(width=180, height=_HEIGHT * len(methods))
    chart = layers.facet(facet=alt.Facet("question:N", title=None, sort=None), columns=2)
    return _chart(title, chart, rows)


def _ends(found: Estimate) -> dict[str, float]:
    """Return the ends of an interval; the mean where there is none, as a chart without any end has no scale."""
    none = math.isnan(found.low)
    return {"low": found.mean if none else found.low, "high": found.mean if none else found.high}


def shots_chart(findings: Findings) -> Chart | None:
    """Draw learning curves: each method's score over the number of shots."""
    import altair as alt

    rows = [
        {
            "target": question.task,
            "method": label,
            "shots": question.shots,
            "score": each.mean,
            **_ends(each),
        }
        for (question, label), each in findings.scores.items()
        if question.shots is not None
    ]
    if len({row["shots"] for row in rows}) < 2:
        return None
    base = alt.Chart().encode(  # the data are the facet's
        x=alt.X("shots:Q", title="shots", scale=alt.Scale(type="symlog")),
        color=alt.Color("method:N", scale=alt.Scale(range=_COLOURS), title=None, legend=alt.Legend(orient="bottom", columns=2)),
        tooltip=_tooltips(rows),
    )
    layers = alt.layer(
        base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", title="score", scale=alt.Scale(zero=False)), y2="high:Q"),
        base.mark_line(point=True).encode(y="score:Q"),
        data=_data(rows),
    ).properties(width=200, height=180)
    return _chart("Learning curves over shots", layers.facet(facet=alt.Facet("target:N", title=None), columns=2), rows)


def cost_chart(findings: Findings, found: Sequence[Spent], unit: str, title: str) -> Chart | None:
    """Draw each method's mean score against what its training took."""
    import altair as alt

    costs = {each.label: each.parameters if unit == "parameters" else each.used[unit] for each in found}
    rows = []
    for method in findings.methods:
        scores = [findings.scores[question, method.label].mean for question in method.figures]
        cost = costs.get(method.column)
        if scores and cost is not None and len(scores) == len(findings.questions):
            rows.append({"method": method.label, unit: cost, "score": sum(scores) / len(scores)})
    if len(rows) < 2:
        return None
    chart = (
        alt.Chart(_data(rows))
        .mark_point(filled=True, size=90, opacity=1)
        .encode(
            x=alt.X(f"{unit}:Q", title=title, scale=alt.Scale(zero=False)),
            y=alt.Y("score:Q", title="mean score over all questions", scale=alt.Scale(zero=False)),
            color=alt.Color(
                "method:N", scale=alt.Scale(range=_COLOURS), title=None, legend=alt.Legend(orient="bottom", columns=2)
            ),
            tooltip=_tooltips(rows),
        )
        .properties(width="container", height=240)
    )
    return _chart(f"{findings.title}: score against {title}", chart, rows)


def ranks_chart(findings: Findings) -> Chart | None:
    """Draw mean ranks, with bars over methods that are not told apart (Demšar 2006, figure 1)."""
    import altair as alt

    ranks = findings.ranks
    if ranks is None:
        return None
    rows = [{"method": name, "rank": value} for name, value in zip(ranks.names, ranks.ranks, strict=True)]
    bars = [{"first": ranks.ranks[first], "last": ranks.ranks[last], "method": ranks.names[last]} for first, last in ranks.groups]
    shown = alt.Chart(_data(rows)).encode(y=alt.Y("method:N", sort=list(ranks.names), title=None, axis=alt.Axis(labelLimit=160)))
    points = shown.mark_point(filled=True, size=80, opacity=1, color=_COLOURS[0]).encode(
        x=alt.X("rank:Q", title="mean rank, 1 is best", scale=alt.Scale(domain=[1, len(rows)]), axis=alt.Axis(tickMinStep=1)),
        tooltip=_tooltips(rows),
    )
    layers = [points]
    if bars:
        groups = alt.Chart(_data(bars)).mark_rule(strokeWidth=4, color=_COLOURS[1], opacity=0.6)
        layers.append(groups.encode(x="first:Q", x2="last:Q", y=alt.Y("method:N", sort=list(ranks.names))))
    chart = alt.layer(*layers).properties(width="container", height=_HEIGHT * len(rows))
    distance = "" if math.isnan(ranks.critical_difference) else f", critical difference {ranks.critical_difference:.2f}"
    return _chart(f"{findings.title}: mean ranks{distance}", chart, rows)


def matrix_chart(matrix: Matrix) -> Chart:
    """Draw a matrix in colours from negative to positive."""
    rows = [
        {"row": row, "column": column, "value": value}
        for row, values in zip(matrix.rows, matrix.values, strict=True)
        for column, value in zip(matrix.columns, values, strict=True)
    ]
    return _heat(matrix.title, rows, matrix.rows, matrix.columns, diverging=True)


def confusion_chart(task: str, matrix: Mapping[str, Any]) -> Chart:
    """Draw a confusion matrix: gold down, predicted across, counts."""
    labels = [str(label) for label in matrix["labels"]]
    rows = [
        {"row": gold, "column": predicted, "value": count}
        for gold, counts in zip(labels, matrix["counts"], strict=True)
        for predicted, count in zip(labels, counts, strict=True)
    ]
    return _heat(f"Confusion: {task} (gold down, predicted across)", rows, labels, labels, diverging=False)


def curves_chart(title: str, rows: Sequence[Mapping[str, Any]], x: str, y: str, *, diagonal: bool = False) -> Chart | None:
    """Draw lines: one for each ``task`` of the rows."""
    import altair as alt

    if not rows:
        return None
    colour = alt.Color("task:N", scale=alt.Scale(range=_COLOURS), title=None, legend=alt.Legend(orient="bottom", columns=2))
    lines = (
        alt.Chart(_data(rows))
        .mark_line(point=alt.OverlayMarkDef(size=14))
        .encode(x=alt.X(f"{x}:Q"), y=alt.Y(f"{y}:Q", scale=alt.Scale(zero=False)), color=colour, tooltip=_tooltips(rows))
    )
    layers: list[Any] = [lines]
    if diagonal:
        ends = [{x: 0.0, y: 0.0}, {x: 1.0, y: 1.0}]
        layers.append(alt.Chart(_data(ends)).mark_line(strokeDash=[4, 4], color="#888").encode(x=f"{x}:Q", y=f"{y}:Q"))
    return _chart(title, alt.layer(*layers).properties(width="container", height=240), rows)


def _heat(title: str, rows: Sequence[Mapping[str, Any]], down: Sequence[str], across: Sequence[str], *, diverging: bool) -> Chart:
    import altair as alt

    largest = max((abs(row["value"]) for row in rows if not math.isnan(row["value"])), default=1.0) or 1.0
    scale = alt.Scale(scheme="blueorange", domain=[-largest, largest], reverse=True) if diverging else alt.Scale(scheme="blues")
    size = max(18, min(60, 420 // max(len(across), 1)))
    base = alt.Chart(_data(rows)).encode(
        x=alt.X("column:N", sort=list(across), title=None, axis=alt.Axis(labelAngle=-40, labelLimit=110)),
        y=alt.Y("row:N", sort=list(down), title=None, axis=alt.Axis(labelLimit=110)),
        tooltip=_tooltips(rows),
    )
    layers = [base.mark_rect().encode(color=alt.Color("value:Q", scale=scale, legend=None))]
    if len(across) <= 12:
        text = alt.Text("value:Q", format="+.3f" if diverging else "d")
        layers.append(base.mark_text(fontSize=10, color="#111").encode(text=text))
    return _chart(title, alt.layer(*layers).properties(width=size * len(across), height=size * len(down)), rows)


def _data(rows: Sequence[Mapping[str, Any]]) -> Any:
    import altair as alt

    plain = [
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()} for row in rows
    ]
    return alt.Data(values=plain)


def _tooltips(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    import altair as alt

    return [
        alt.Tooltip(f"{key}:Q", format=".4~g") if isinstance(value, float) else alt.Tooltip(f"{key}:N")
        for key, value in rows[0].items()
    ]


def _chart(title: str, chart: Any, rows: Sequence[Mapping[str, Any]]) -> Chart:
    cells = [[_cell(value) for value in row.values()] for row in rows]
    return Chart(
        title, chart.properties(usermeta={"title": title}).to_dict(), Table(f"{title}: the numbers", list(rows[0]), cells)
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4f}".replace("-", "−")
    return str(value)


def vega_lite_version() -> str:
    """Return the version of Vega-Lite that the charts are written in, such as ``6.4``."""
    import altair as alt

    return ".".join(str(alt.SCHEMA_VERSION).removeprefix("v").split(".")[:2])
