"""TensorBoard (extra ``tensorboard``): name ``mtl_plugins.tensorboard:TRACKER`` under ``plugins``, or with ``--plugin``.

Curves, configuration and results are in ``tensorboard/`` of the run's folder: ``tensorboard --logdir runs``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl.errors import MissingExtraError
from mtl.tracking import Tracker

if TYPE_CHECKING:
    from mtl.run import Run


class TensorBoard(Tracker):
    """Writes event files."""

    def begin(self, run: Run, config: Mapping[str, Any]) -> None:
        try:
            library = import_module("torch.utils.tensorboard")  # without types, whether TensorBoard is there or not
        except ImportError as error:
            raise MissingExtraError("tensorboard", extra="tensorboard") from error
        self._writer = library.SummaryWriter(str(run.folder / "tensorboard"))
        self._writer.add_text("config", f"```json\n{json.dumps(config, indent=2)}\n```")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, final: Mapping[str, float], folder: Path, failure: str | None) -> None:
        for name, value in final.items():
            self._writer.add_scalar(name, value, 0)
        tables = folder / "results.md"
        text = failure or (tables.read_text(encoding="utf-8") if tables.is_file() else "")
        self._writer.add_text("failure" if failure else "results", text)
        self._writer.close()


TRACKER = TensorBoard()
