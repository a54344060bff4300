"""Low-rank updates learned from the support."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mtl.meta.scope import Adapted
from mtl.transfer.fine_tuning import FineTuning


@dataclass
class LoRA(FineTuning):
    """Train the head and the encoder's LoRA weights (Hu et al. 2022, arXiv:2106.09685); needs ``encoder.lora``."""

    adapted: ClassVar[Adapted] = "lora"
