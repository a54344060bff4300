"""A cell: one run of a grid, in a folder that its configuration names, wherever it is run."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mtl.axes import Point, asked_of, label_of
from mtl.config import ExperimentConfig, validate
from mtl.errors import MTLError
from mtl.files import read_json, write_json

State = Literal["waiting", "running", "finished", "failed"]
_ATTEMPT, _FAILURE, _RESULTS = "attempt.json", "failure.json", "results.json"


@dataclass(frozen=True)
class Cell:
    """A cell of a grid.

    Attributes:
        point: Where it is on the axes.
        config: Its experiment, without axes.
        folder: The folder of its run. Two cells with one configuration are one run.
    """

    point: Point
    config: ExperimentConfig
    folder: Path

    @property
    def name(self) -> str:
        """Its point in words."""
        seed = f"seed {self.point['seed']}" if "seed" in self.point else ""
        return ", ".join(filter(None, [label_of(self.point) or self.config.strategy.name, *asked_of(self.point), seed]))

    @property
    def finished(self) -> bool:
        """Whether its results are there."""
        return (self.folder / _RESULTS).is_file()

    @property
    def failure(self) -> str | None:
        """What it failed with, if it did."""
        path = self.folder / _FAILURE
        return None if self.finished or not path.is_file() else str(_kept(path).get("error", f"what is in {path} is torn"))

    def state(self, attempt: str) -> State:
        """Return how far it is; it is running if it was begun in ``attempt``."""
        if self.finished:
            return "finished"
        if self.failure is not None:
            return "failed"
        return "running" if self.begun(attempt) else "waiting"

    def begun(self, attempt: str) -> dict[str, Any] | None:
        """Return when and where it was begun in ``attempt``, if it was."""
        about = _kept(self.folder / _ATTEMPT)
        return about if about.get("attempt") == attempt else None

    def fail(self, error: str, trace: str = "") -> None:
        """Write down what it failed with."""
        write_json(self.folder / _FAILURE, {"error": error, "traceback": trace})

    def forget_failure(self) -> None:
        """Let it be run again."""
        (self.folder / _FAILURE).unlink(missing_ok=True)

    def order(self, attempt: str, plugins: Sequence[str], threads: int) -> dict[str, Any]:
        """Return what :func:`run_cell` takes: plain values that any process can be sent."""
        config = self.config.model_copy(update={"threads": threads})
        return {
            "values": config.model_dump(mode="json", exclude={"compare"}),
            "folder": str(self.folder.absolute()),
            "plugins": list(plugins),
            "attempt": attempt,
        }


def _kept(path: Path) -> dict[str, Any]:
    """Read what is kept of a cell's way; a file that is not there or torn says nothing, and is written anew."""
    try:
        read = read_json(path, MTLError)
    except MTLError:
        return {}
    return read if isinstance(read, dict) else {}


def run_cell(values: Mapping[str, Any], folder: str, plugins: Sequence[str], attempt: str) -> None:
    """Run a cell to its end in this process. What it gave, or failed with, is in its folder.

    Nothing is returned and nothing raised, so that every way of sending work elsewhere will do.

    Args:
        values: The experiment's keys.
        folder: The run's folder.
        plugins: Plugins that are not installed.
        attempt: Of the grid that asks.
    """
    config = validate(dict(values), "cell")
    cell = Cell({}, config, Path(folder))
    where = {"attempt": attempt, "host": socket.gethostname(), "process": os.getpid(), "started": time.time()}
    try:
        write_json(cell.folder / _ATTEMPT, where)
        run_alone(cell, plugins)
    except (Exception, SystemExit) as error:
        told = str(error) if isinstance(error, MTLError) else f"{type(error).__name__}: {error}"
        cell.fail(told, traceback.format_exc())


def run_alone(cell: Cell, plugins: Sequence[str]) -> dict[str, Any]:
    """Run a cell in this process and return its results.

    Raises:
        MTLError: If something in the experiment or its data is wrong.
    """
    from mtl.plugins import load_plugins
    from mtl.report.display import Quiet
    from mtl.run import Run

    return Run(cell.config, load_plugins(plugins), cell.folder, Quiet()).execute()
