"""Fine-tuning the top layers on the support."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from mtl.meta.scope import Adapted
from mtl.transfer.fine_tuning import FineTuning


@dataclass
class TopLayers(FineTuning):
    """Train the head and the last layers; those below run once.

    Args:
        layers: How many layers.
    """

    layers: Annotated[int, Field(ge=1)] = 2

    def _scope(self) -> Adapted:
        return self.layers
