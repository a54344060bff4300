"""Experiments as values: load one, run it, look at what came out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtl.config import Choice, ExperimentConfig, load_config, validate
from mtl.errors import CheckpointError, ConfigError, GridError
from mtl.files import write_json
from mtl.grid.cell import Cell
from mtl.grid.comparable import check_baseline, check_declared, check_rows
from mtl.grid.plan import plan
from mtl.plugins import Plugins, load_plugins
from mtl.results import command, read_results

_LOG = logging.getLogger(__name__)


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
        from mtl.report.write import read_folder, tables_of

        return "\n".join(table.markdown() for table in tables_of(self.folder, *read_folder(self.folder)))


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

        runs: list[dict[str, Any]] = []
        for cell in self.cells():
            run = Run(cell.config, self.load_plugins(), cell.folder, display or Quiet())
            runs.append({"point": cell.point, "folder": str(run.folder), "results": run.execute()})
        if len(runs) == 1 and not self.config.compare:
            return Finished(Path(runs[0]["folder"]), runs)
        return self._compare(self.config.output / self.config.name, runs)

    def over(self, axes: Mapping[str, Sequence[Any]]) -> Experiment:
        """Return the same experiment with axes added to its grid, or set anew.

        Raises:
            ConfigError: If an axis is not a list of values.
        """
        grid = self.config.compare.model_dump(exclude_unset=True) | {axis: list(values) for axis, values in axes.items()}
        plain = self.config.model_dump(mode="json", exclude={"compare"})
        return Experiment(validate({**plain, "compare": grid}, "compare"), self._named_plugins)

    def cells(self) -> list[Cell]:
        """Return the cells of the grid, checked: each by itself, and whether they can be compared.

        Raises:
            MTLError: If an axis, a name or an option is not valid, or cells are not asked the same.
        """
        from mtl.report.display import Quiet
        from mtl.run import Run

        cells = plan(self.config)
        for cell in cells:
            Run(cell.config, self.load_plugins(), cell.folder, Quiet()).check()
        check_declared(cells)
        check_baseline(cells, self.config.compare.baseline)
        return cells

    def compare(self, backend: Choice | None = None, jobs: int | None = None, watch: Any = None) -> Finished:
        """Run every cell of the grid that is not finished in processes of a backend, and write the report.

        A cell that fails does not stop the others; it is in the report with its error.

        Args:
            backend: Where the cells are run. Default: processes on this machine.
            jobs: Cells at a time. Default: as many as fit.
            watch: Shows progress; see :class:`mtl.grid.execute.Watch`.

        Raises:
            MTLError: If the grid makes no sense, the backend cannot be reached, or no cell could be finished.
        """
        from mtl.components import Builder
        from mtl.grid.execute import execute, threads_of

        cells = self.cells()
        for cell in cells:
            if cell.finished:
                read_results(cell.folder / "results.json", CheckpointError)  # of another version: known before hours of work
        engine = Builder(self.load_plugins())("backend", backend or Choice(name="loky"))
        execute(cells, engine, jobs=jobs, threads=threads_of(cells), plugins=self._named_plugins, watch=watch)
        runs = []
        for cell in cells:
            results = read_results(cell.folder / "results.json", CheckpointError) if cell.finished else None
            runs.append({"point": cell.point, "folder": str(cell.folder), "results": results, "error": cell.failure})
        check_rows(cells)
        if not any(run["results"] for run in runs):
            raise GridError(f"None of the {len(runs)} cells could be finished. The first failed with: {runs[0]['error']}")
        return self._compare(self.config.output / self.config.name, runs)

    def transfer(self, bundles: Sequence[str | Path], display: Any = None) -> Finished:
        """Measure few-shot transfer of trained bundles, beside the untouched encoder and the other ``targets.baselines``.

        A baseline that has to be trained, such as ``joint``, comes last, and is run as :meth:`run` does it: where that was done
        before, its results are taken. None is trained where a bundle was trained by that strategy.

        Args:
            bundles: Folders of bundles, or of runs with one.
            display: Shows progress.

        Raises:
            MTLError: If there are no targets, or something in the experiment, its data or a bundle is wrong.
        """
        from mtl.model.bundle import load_bundle
        from mtl.report.display import Quiet
        from mtl.run import Run

        [(_, config), *more] = self.config.cells()
        if more or config.targets is None:
            fault = "has axes under 'compare'; take one point of them" if more else "has no 'targets'"
            raise ConfigError(f"mtl transfer: the experiment {config.name!r} {fault}.")
        wanted, config, display = config.targets.baselines, config.with_strategy("none"), display or Quiet()
        baselines = {cell.config.strategy.name: cell for cell in plan(config)}
        untouched = baselines.pop(config.strategy.name)
        for cell in baselines.values():
            Run(cell.config, self.load_plugins(), cell.folder, display).check()  # what is wrong is said before hours of work
        runs: list[dict[str, Any]] = []

        def measure(label: str, run: Run) -> None:
            run.check()
            runs.append({"point": {"strategy": label}, "folder": str(run.folder), "results": run.execute()})

        measure(config.strategy.name, Run(config, self.load_plugins(), untouched.folder, display))
        for place in bundles:
            plugins = self.load_plugins()
            loaded = load_bundle(place, plugins=plugins)
            baselines.pop(loaded.label, None)
            taken = any(run["point"]["strategy"] == loaded.label for run in runs)
            label = f"{loaded.label} {loaded.fingerprint}" if taken else loaded.label
            folder = untouched.folder.with_name(f"transfer-{loaded.label}-{config.hash}-{loaded.fingerprint}")
            measure(label, Run(config, plugins, folder, display, loaded))
        for name in wanted:
            if name not in baselines and not any(run["point"]["strategy"] == name for run in runs):
                _LOG.warning(
                    "%s is not beside the bundles: the experiment lists no task to train it on. Add the sources to its tasks, "
                    "give a run of %s as one more bundle, or set targets.baselines to [none]",
                    name,
                    name,
                )
        for name, cell in baselines.items():
            display.say(f"{name} beside the bundles, as targets.baselines has it; [none] leaves it out")
            measure(name, Run(cell.config, self.load_plugins(), cell.folder, display))
        return self._compare(untouched.folder.parent, runs)

    def _compare(self, folder: Path, runs: list[dict[str, Any]]) -> Finished:
        from mtl.report.write import write_all

        comparison = {
            "experiment": self.config.name,
            "axes": _axes([run["point"] for run in runs]),
            "grid": self.config.compare.model_dump(mode="json", include={"matched", "tolerance", "baseline"}),
            "command": command(),
            "cells": [{"point": run["point"], "folder": Path(run["folder"]).name, "error": run.get("error")} for run in runs],
        }
        write_json(folder / "comparison.json", comparison)
        write_all(folder, comparison, [run["results"] for run in runs])
        return Finished(folder, runs)


def _axes(points: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the values of every axis, in order."""
    axes: dict[str, list[Any]] = {}
    for point in points:
        for axis, value in point.items():
            if value not in axes.setdefault(axis, []):
                axes[axis].append(value)
    return axes


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
    if not place.suffix and not place.is_file():  # a folder may have the name of an experiment
        registered = load_plugins(plugins).experiments
        if not place.exists() or str(path) in registered:
            place = Path(registered.get(str(path)))
    return Experiment(load_config(place, overrides), plugins)
