"""No training: the pretrained encoder as it is, the baseline of transfer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import mtl
from mtl.model.multitask import MultiTaskModel
from mtl.training.strategy import Draw, StepReport


@dataclass
class Untouched(mtl.Strategy):
    """Leave the encoder untouched."""

    trains: ClassVar[bool] = False

    def groups(self, tasks: Sequence[str]) -> dict[str, list[str]]:
        return {"none": []}

    def fill_gradients(self, model: MultiTaskModel, draw: Draw) -> StepReport:
        raise AssertionError("the strategy 'none' is not trained")
