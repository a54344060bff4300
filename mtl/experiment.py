"""Experiments as values: load one, run it, look at what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtl.config import ExperimentConfig, load_config, validate
from mtl.files import write_json
from mtl.plugins import Plugins, load_plugins


@dataclass(frozen=True)
class Finished:
    """What an experiment gave.

    Attributes:
        folder: The folder of the run, or of the comparison where there are several.
        runs: For each run its point on the axes, its folder and its results.
    """

    folder: Path
    runs: list[dict[str, Any]]

    def __str__(self) -> str:
        """Return the tables as Markdown."""
        from mtl.report.write import read_results, tables_of

        return "\n".join(table.markdown() for table in tables_of(*read_results(self.folder)))


class Experiment:
    """An experiment, ready to run.

    Args:
        config: What is to be done.
        plugins: Plugins that are not installed, as ``module:object``.
    """

    def __init__(self, config: ExperimentConfig, plugins: Sequence[str] = ()) -> None:
        self.config = config
        self._named_plugins = (*(_from_base(plugin, config.base) for plugin in config.plugins), *plugins)

    @classmethod
    def of(cls, **values: Any) -> Experiment:
        """Make an experiment from the keys of an experiment file.

        Raises:
            ConfigError: If a key is unknown or a value is not valid.
        """
        return cls(validate({"base": str(Path.cwd()), **values}, "experiment"))

    def load_plugins(self) -> Plugins:
        """Load a fresh set of plugins for this experiment."""
        return load_plugins(self._named_plugins)

    def run(self, display: Any = None) -> Finished:
        """Run every cell that is not finished, and write tables and plots.

        Raises:
            MTLError: If something in the experiment or its data is wrong.
        """
        from mtl.report.display import Quiet
        from mtl.run import Run

        cells = with_baselines(self.config.cells())
        folder = self.config.output / self.config.name
        runs: list[dict[str, Any]] = []
        planned = []
        for point, config in cells:
            run = Run(config, self.load_plugins(), folder / f"{config.strategy.name}-{config.hash}", display or Quiet())
            run.check()
            planned.append((point, run))
        for point, run in planned:
            runs.append({"point": point, "folder": str(run.folder), "results": run.execute()})
        if len(runs) == 1 and not self.config.compare:
            return Finished(Path(runs[0]["folder"]), runs)
        return self._compare(folder, runs)

    def transfer(self, bundles: Sequence[str | Path], display: Any = None) -> Finished:
        """Measure few-shot transfer of trained bundles and of the untouched encoder; nothing is trained.

        Args:
            bundles: Folders of bundles, or of runs with one.
            display: Shows progress.

        Raises:
            MTLError: If there are no targets, or something in the experiment, its data or a bundle is wrong.
        """
        from mtl.errors import ConfigError
        from mtl.model.bundle import load_bundle
        from mtl.report.display import Quiet
        from mtl.run import Run

        [(_, config), *more] = self.config.cells()
        if more or config.targets is None:
            fault = "has axes under 'compare'; take one point of them" if more else "has no 'targets'"
            raise ConfigError(f"mtl transfer: the experiment {config.name!r} {fault}.")
        config, folder = config.with_strategy("none"), config.output / config.name
        runs: list[dict[str, Any]] = []
        for place in (None, *bundles):
            plugins = self.load_plugins()
            loaded = None if place is None else load_bundle(place, plugins=plugins)
            label = "none" if loaded is None else loaded.label
            if loaded is not None and any(run["point"]["strategy"] == label for run in runs):
                label = f"{label} {loaded.fingerprint}"
            name = f"transfer-{label.split()[0]}-{config.hash}" + ("" if loaded is None else f"-{loaded.fingerprint}")
            run = Run(config, plugins, folder / name, display or Quiet(), loaded)
            run.check()
            runs.append({"point": {"strategy": label}, "folder": str(run.folder), "results": run.execute()})
        return self._compare(folder, runs)

    def _compare(self, folder: Path, runs: list[dict[str, Any]]) -> Finished:
        from mtl.report.write import write_comparison

        comparison = {
            "experiment": self.config.name,
            "axes": {axis: _distinct([run["point"][axis] for run in runs]) for axis in runs[0]["point"]},
            "cells": [{"point": run["point"], "folder": Path(run["folder"]).name} for run in runs],
        }
        write_json(folder / "comparison.json", comparison)
        write_comparison(folder, comparison, [run["results"] for run in runs])
        return Finished(folder, runs)


Cell = tuple[dict[str, Any], ExperimentConfig]


def with_baselines(cells: Sequence[Cell]) -> list[Cell]:
    """Add the strategies that transfer is always shown beside, where they are not among the cells: first the baselines."""
    if not any(config.targets and config.targets.baselines for _, config in cells):
        return list(cells)
    found: dict[str, Cell] = {}
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


def _distinct(values: Sequence[Any]) -> list[Any]:
    return [value for place, value in enumerate(values) if value not in values[:place]]


def _from_base(plugin: str, base: Path) -> str:
    """Let a plugin's file in an experiment be found from the experiment's folder, as data are."""
    file, colon, attribute = plugin.partition(":")
    return f"{base / file}{colon}{attribute}" if file.endswith(".py") else plugin


def load_experiment(path: str | Path, overrides: Sequence[str] = (), plugins: Sequence[str] = ()) -> Experiment:
    """Load an experiment file, or one that a plugin has registered by name.

    Args:
        path: The file, or the name.
        overrides: ``key=value`` with dots in the key, as for ``mtl run --set``.
        plugins: Plugins that are not installed, as ``module:object``.

    Raises:
        ConfigError: If the file or a value in it is not valid.
    """
    place = Path(path)
    if not place.suffix and not place.exists():
        place = Path(load_plugins(plugins).experiments.get(str(path)))
    return Experiment(load_config(place, overrides), plugins)
