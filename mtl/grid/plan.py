"""Which cells an experiment has, and how long they will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from mtl.axes import Point
from mtl.config import ExperimentConfig
from mtl.errors import CheckpointError
from mtl.files import read_json
from mtl.grid.cell import Cell


def plan(config: ExperimentConfig) -> list[Cell]:
    """Return the cells of an experiment, with the baselines that transfer is always shown beside.

    Raises:
        ConfigError: If an axis or a value on it is not valid.
    """
    root = config.output / config.name
    return [Cell(point, cell, root / f"{cell.strategy.name}-{cell.hash}") for point, cell in with_baselines(config.cells())]


def with_baselines(cells: Sequence[tuple[Point, ExperimentConfig]]) -> list[tuple[Point, ExperimentConfig]]:
    """Add the strategies that transfer is always shown beside, where they are not among the cells: first the baselines."""
    if not any(config.targets and config.targets.baselines for _, config in cells):
        return list(cells)
    found: dict[str, tuple[Point, ExperimentConfig]] = {}
    for point, config in cells:
        for name in config.targets.baselines if config.targets and has_sources(config) else ():
            baseline = config if config.strategy.name == name else config.with_strategy(name)
            found.setdefault(baseline.hash, ({**point, "strategy": name}, baseline))
    for point, config in cells:
        found.setdefault(config.hash, ({**point, "strategy": point.get("strategy", config.strategy.name)}, config))
    return list(found.values())


def has_sources(config: ExperimentConfig) -> bool:
    """Tell whether there is a task to train."""
    kept_out = {*config.targets.tasks, *config.targets.validation} if config.targets else set()
    names = {task if isinstance(task, str) else task.name for task in config.tasks}
    return bool(names - kept_out)


@dataclass(frozen=True)
class Forecast:
    """How long a cell will take.

    Attributes:
        cell: The cell.
        seconds: Of one process; 0 if it is finished, ``None`` if nothing like it has run.
        like: What that is known from: ``finished``, cells of the same strategy, or any cell.
    """

    cell: Cell
    seconds: float | None
    like: str


def forecast(cells: Sequence[Cell]) -> list[Forecast]:
    """Estimate how long each cell will take from those that have run: of its strategy, else of any."""
    took: dict[str, list[float]] = {}
    for cell in cells:
        if cell.finished:
            seconds = read_json(cell.folder / "timing.json", CheckpointError)["wall_seconds"]
            took.setdefault(cell.config.strategy.name, []).append(seconds)
    every = [seconds for found in took.values() for seconds in found]
    forecasts = []
    for cell in cells:
        own = took.get(cell.config.strategy.name)
        if cell.finished:
            forecasts.append(Forecast(cell, 0.0, "finished"))
        elif own:
            forecasts.append(Forecast(cell, fmean(own), f"{len(own)} of the same strategy"))
        else:
            forecasts.append(
                Forecast(cell, fmean(every) if every else None, f"{len(every)} of other strategies" if every else "–")
            )
    return forecasts
