"""Whether the cells of a comparison have used alike: examples, passes through the encoder, or time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from mtl.compare.columns import Column

#: What is counted, in words.
UNITS = {"examples": "examples", "passes": "sequences through the encoder", "seconds": "seconds of training"}


@dataclass(frozen=True)
class Spent:
    """What the runs of a column have used, on average.

    Attributes:
        label: The column.
        used: Each unit of :data:`UNITS`; ``None`` where it is not known.
        parameters: The most parameters that one of its models trained.
        ratio: Of the matched unit, to the median of all columns that train; ``None`` where it is not known.
        broken: Whether that is further from 1 than the tolerance.
    """

    label: str
    used: Mapping[str, float | None]
    parameters: int
    ratio: float | None
    broken: bool


def spent(columns: Sequence[Column], timings: Mapping[str, Mapping[str, Any]], matched: str, tolerance: float) -> list[Spent]:
    """Count what every column that trains has used, and flag those that are out of the common budget.

    Args:
        columns: The columns of a comparison.
        timings: What each run has written of its time, by the run's hash.
        matched: The unit that is to be alike.
        tolerance: Share by which a column may differ from the median.
    """
    training = [column for column in columns if any(run["models"] and _sum(run, "examples") for run in column.runs)]
    used = {column.label: {unit: _mean(column, unit, timings) for unit in UNITS} for column in training}
    known = [each[matched] for each in used.values() if each[matched] is not None]
    middle = median(value for value in known if value is not None) if known else None
    found = []
    for column in training:
        value = used[column.label][matched]
        ratio = value / middle if value is not None and middle else None
        parameters = max(int(model.get("parameters", 0)) for run in column.runs for model in run["models"].values())
        found.append(Spent(column.label, used[column.label], parameters, ratio, ratio is not None and abs(ratio - 1) > tolerance))
    return found


def _mean(column: Column, unit: str, timings: Mapping[str, Mapping[str, Any]]) -> float | None:
    if unit == "seconds":
        found = [timings[run["hash"]].get("training_seconds", {}) for run in column.runs if run["hash"] in timings]
        return fmean(sum(each.values()) for each in found) if found else None
    sums = [_sum(run, unit) for run in column.runs]
    return fmean(value for value in sums if value is not None) if any(value is not None for value in sums) else None


def _sum(run: Mapping[str, Any], unit: str) -> float | None:
    found = [model[unit] for model in run["models"].values() if unit in model]
    return float(sum(found)) if found else None
