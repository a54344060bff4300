"""Tracker: a plugin that tells another program of a run, through the life-cycle hooks alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl.hookspecs import hookimpl

if TYPE_CHECKING:
    from mtl.run import Run
    from mtl.training.strategy import StepReport

#: Steps between two losses that are sent, so that a GPU is not waited for.
EVERY_STEPS = 20


class Tracker(ABC):
    """Sends a run's configuration, curves, results and tables elsewhere. An instance of a subclass is a plugin.

    Nothing is sent before a run begins, and the run's own files stay as they are.
    """

    _begun = False

    @abstractmethod
    def begin(self, run: Run, config: Mapping[str, Any]) -> None:
        """Begin a run; ``config`` is the whole experiment as plain values."""

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of a step, by names such as ``joint/loss/mood``."""

    @abstractmethod
    def finish(self, final: Mapping[str, float], folder: Path, failure: str | None) -> None:
        """End a run.

        Args:
            final: The results: the test metric of every task, and the mean of every target.
            folder: The run's folder; ``results.md`` in it has the tables, unless the run has failed.
            failure: What it failed with, if it did.
        """

    @hookimpl
    def mtl_run_start(self, run: Run) -> None:
        """Begin."""
        self._begun = False
        self.begin(run, run.config.model_dump(mode="json", exclude={"compare"}))
        self._begun = True

    @hookimpl
    def mtl_step_end(self, run: Run, group: str, step: int, report: StepReport) -> None:
        """Send losses and weights now and then."""
        if step % EVERY_STEPS == 0:
            losses = {f"{group}/loss/{task}": float(loss) for task, loss in report.losses.items()}
            self.log(step, losses | {f"{group}/weight/{task}": float(weight) for task, weight in report.weights.items()})

    @hookimpl
    def mtl_evaluation_end(self, run: Run, group: str, step: int, metrics: Mapping[str, Mapping[str, Any]]) -> None:
        """Send the validation metrics of every task."""
        values = {
            f"{group}/validation/{task}/{name}": value
            for task, found in metrics.items()
            for name, value in found.items()
            if isinstance(value, float)
        }
        self.log(step, values)

    @hookimpl
    def mtl_run_end(self, run: Run, results: Mapping[str, Any]) -> None:
        """Send the results, and end."""
        self.finish(final_values(results), run.folder, None)

    @hookimpl
    def mtl_run_failed(self, run: Run, error: BaseException) -> None:
        """End with the error, unless it came before the beginning."""
        if self._begun:
            self.finish({}, run.folder, f"{type(error).__name__}: {error}")


def final_values(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the test metric of every task, and the mean of every target over its episodes."""
    values = {
        f"test/{task}/{about['metric']}": float(about["value"])
        for task, about in results["tasks"].items()
        if about["value"] is not None
    }
    for group, found in results["targets"].items():
        for target, by_adaptation in found["figures"].items():
            for adaptation, by_shots in by_adaptation.items():
                for shots, figures in by_shots.items():
                    values[f"transfer/{group}/{target}/{adaptation}/{shots} shots"] = sum(figures) / len(figures)
    return values
