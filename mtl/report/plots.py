"""Plots of a run and of a comparison. The one importer of `matplotlib`."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl.compare.bootstrap import estimate
from mtl.compare.columns import Column
from mtl.compare.figures import in_shots, nested, of_targets, questions_of
from mtl.files import write_atomic
from mtl.metrics import mean_of

_LOG = logging.getLogger(__name__)
_SIZE = (7.0, 4.0)
_DPI = 130
#: Okabe & Ito's palette, told apart by colour-blind readers as well.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
#: What tells the ninth from the first: of lines, and of bars.
_LINES, _HATCHES = ("-", "--", ":"), ("", "///", "...")
_LEGEND_COLUMNS = 3


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a training's log; one that is torn is left out with a warning."""
    found = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else (), 1):
        try:
            found.append(json.loads(line))
        except ValueError:
            _LOG.warning("%s, line %d is torn; curves are drawn without it", path, number)
    return found


def plot_curves(log: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Draw loss, weight, norm of the gradient and validation skill of every task over the examples seen."""
    steps = [line for line in log if "loss" in line]
    evaluations = [line for line in log if "skill" in line]
    paths = []
    if steps:
        paths.append(_curves(_series(steps, "loss"), "training loss per unit", folder / "loss.png", smooth=True))
        if weights := _series(steps, "weight"):
            paths.append(_curves(weights, "weight of the loss", folder / "weight.png"))
        if norms := _series(_with_norms(steps), "norm"):
            paths.append(_curves(norms, "norm of the gradient", folder / "gradient-norm.png", smooth=True))
    if evaluations:
        series = _series(evaluations, "skill")
        paths.append(_curves(series, "validation skill (0 trivial, 1 perfect)", folder / "validation.png", marker="o"))
    return paths


def plot_tasks(columns: Sequence[Column], path: Path) -> Path | None:
    """Draw the skill of every task under every strategy, side by side."""
    trained = [column for column in columns if any(run["tasks"] for run in column.runs)]
    names = list(dict.fromkeys(name for column in trained for run in column.runs for name in run["tasks"]))
    if not names:
        return None
    bars = {
        column.label: [mean_of([run["tasks"][name]["skill"] for run in column.runs if name in run["tasks"]]) for name in names]
        for column in trained
    }
    return _bars(names, bars, "test skill (0 trivial, 1 perfect)", path)


def plot_transfer(columns: Sequence[Column], path: Path) -> Path | None:
    """Draw few-shot transfer of every encoder to every target."""
    methods = of_targets(columns)
    asked = questions_of(methods)
    names = [f"{_broken(question.task)}\n{in_shots(question.shots or 0)}" for question in asked]
    bars = {
        method.label: [estimate(nested(method.figures[each])).mean if each in method.figures else math.nan for each in asked]
        for method in methods
    }
    return _bars(names, bars, "metric of the target, mean of the support sets", path) if names else None


def _broken(task: str) -> str:
    """Let a long name go on in a second line after its last ``/``."""
    before, slash, name = task.rpartition("/")
    return f"{before}{slash}\n{name}" if before else name


def _series(lines: Iterable[Mapping[str, Any]], key: str) -> dict[str, tuple[list[float], list[float]]]:
    series: dict[str, tuple[list[float], list[float]]] = {}
    for line in lines:
        for task, value in line[key].items():
            if value is not None:
                xs, ys = series.setdefault(task, ([], []))
                xs.append(line["examples"])
                ys.append(value)
    return dict(sorted(series.items()))


def _with_norms(steps: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the steps at which a strategy has looked at each task's gradient, with its norm by the task."""
    for line in steps:
        if "gradients" in line:
            yield {**line, "norm": dict(zip(line["gradients"]["tasks"], line["gradients"]["norms"], strict=True))}


def _curves(
    series: Mapping[str, tuple[list[float], list[float]]], label: str, path: Path, *, smooth: bool = False, marker: str = ""
) -> Path:
    plot, figure, axes = _start()
    for number, (task, (xs, ys)) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        if smooth and len(ys) > 20:
            axes.plot(xs, ys, color=colour, alpha=0.2, linewidth=0.8)
            ys = _running_mean(ys, max(5, len(ys) // 20))
        line = _LINES[number // len(_COLOURS) % len(_LINES)]
        axes.plot(xs, ys, label=task, color=colour, linestyle=line, marker=marker)
    axes.set_xlabel("examples seen, all tasks")
    axes.set_ylabel(label)
    _legend(figure, len(series))
    return _finish(plot, figure, path)


def _bars(names: Sequence[str], bars: Mapping[str, Sequence[float]], label: str, path: Path) -> Path:
    plot, figure, axes = _start()
    width = 0.8 / max(len(bars), 1)
    for number, (name, values) in enumerate(bars.items()):
        places = [place + (number - (len(bars) - 1) / 2) * width for place in range(len(values))]
        hatch = _HATCHES[number // len(_COLOURS) % len(_HATCHES)]
        axes.bar(
            places, values, width, label=name, color=_COLOURS[number % len(_COLOURS)], hatch=hatch, edgecolor="white", linewidth=0
        )
    axes.set_xticks(range(len(names)), names, fontsize="small", rotation=15 if len(names) > 4 else 0)
    axes.set_ylabel(label)
    axes.axhline(0, color="black", linewidth=0.6)
    _legend(figure, len(bars))
    return _finish(plot, figure, path)


def _running_mean(values: Sequence[float], window: int) -> list[float]:
    means, total = [], 0.0
    for index, value in enumerate(values):
        total += value - (values[index - window] if index >= window else 0.0)
        means.append(total / min(index + 1, window))
    return means


def _start() -> tuple[Any, Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plot

    figure, axes = plot.subplots(figsize=_SIZE, layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    return plot, figure, axes


def _legend(figure: Any, entries: int) -> None:
    """Put the legend above, where it hides nothing, and make room for its lines."""
    figure.set_figheight(_SIZE[1] + 0.2 * math.ceil(entries / _LEGEND_COLUMNS))
    figure.legend(loc="outside upper left", frameon=False, fontsize="small", ncols=_LEGEND_COLUMNS)


def _finish(plot: Any, figure: Any, path: Path) -> Path:
    write_atomic(path, lambda temporary: figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None}))
    plot.close(figure)
    return path
