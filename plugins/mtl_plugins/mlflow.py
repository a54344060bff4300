"""MLflow (extra ``mlflow``): name ``mtl_plugins.mlflow:TRACKER`` under ``plugins``, or with ``--plugin``.

Where runs go is MLflow's own setting, ``MLFLOW_TRACKING_URI``: a server, or a folder such as ``file:./mlruns``, which new
versions of MLflow take only with ``MLFLOW_ALLOW_FILE_STORE=true``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl.errors import MissingExtraError
from mtl.tracking import Tracker

if TYPE_CHECKING:
    from mtl.run import Run

#: The most characters of a parameter that MLflow takes.
_LONGEST = 500


class MLflow(Tracker):
    """Writes an MLflow run."""

    def begin(self, run: Run, config: Mapping[str, Any]) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise MissingExtraError("mlflow", extra="mlflow") from error
        mlflow.set_experiment(run.config.name)
        self._mlflow = mlflow
        mlflow.start_run(run_name=run.folder.name)
        mlflow.log_params({key: str(value)[:_LONGEST] for key, value in config.items()})
        mlflow.log_dict(dict(config), "config.json")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics({_plain(name): value for name, value in values.items()}, step=step)

    def finish(self, final: Mapping[str, float], folder: Path, failure: str | None) -> None:
        if final:
            self._mlflow.log_metrics({_plain(name): value for name, value in final.items()})
        for name in ("results.md", "results.json"):
            if (folder / name).is_file():
                self._mlflow.log_artifact(str(folder / name))
        if failure is not None:
            self._mlflow.set_tag("failure", failure)
        self._mlflow.end_run("FINISHED" if failure is None else "FAILED")


def _plain(name: str) -> str:
    """Leave out what MLflow does not take in a metric's name."""
    return "".join(character if character.isalnum() or character in "_-. /:" else "_" for character in name)


TRACKER = MLflow()
