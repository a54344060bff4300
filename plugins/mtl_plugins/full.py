"""Full fine-tuning on the support."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mtl.meta.scope import Adapted
from mtl.transfer.fine_tuning import FineTuning


@dataclass
class FullFineTuning(FineTuning):
    """Train the head and all layers; the embeddings stay."""

    adapted: ClassVar[Adapted] = "all"
