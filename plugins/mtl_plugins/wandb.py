"""Weights & Biases (extra ``wandb``): name ``mtl_plugins.wandb:TRACKER`` under ``plugins``, or with ``--plugin``.

Project and mode are W&B's own settings: ``WANDB_PROJECT``, ``WANDB_MODE=offline``. Without a network say ``offline``; what is
then in ``wandb/`` of the run's folder can be sent later by ``wandb sync``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl.errors import MissingExtraError
from mtl.tracking import Tracker

if TYPE_CHECKING:
    from mtl.run import Run


class WeightsAndBiases(Tracker):
    """Writes a W&B run."""

    def begin(self, run: Run, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("wandb", extra="wandb") from error
        name = f"{run.config.name}/{run.folder.name}"
        self._run = wandb.init(dir=str(run.folder), name=name, group=run.config.name, config=dict(config), reinit="create_new")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})  # a step of each model: W&B's own counter only goes up

    def finish(self, final: Mapping[str, float], folder: Path, failure: str | None) -> None:
        import wandb

        self._run.summary.update(dict(final) if failure is None else {"failure": failure})
        if (folder / "results.md").is_file():
            artifact = wandb.Artifact(f"results-{folder.name}", type="results")
            for name in ("results.md", "results.json", "config.yaml"):
                artifact.add_file(str(folder / name))
            self._run.log_artifact(artifact)
        self._run.finish(exit_code=0 if failure is None else 1)


TRACKER = WeightsAndBiases()
