"""The encoder's adapters learned from the support."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mtl.meta.scope import Adapted
from mtl.transfer.fine_tuning import FineTuning


@dataclass
class AdapterTuning(FineTuning):
    """Train the head and the encoder's adapters (Houlsby et al. 2019, arXiv:1902.00751); needs ``encoder.adapter``."""

    adapted: ClassVar[Adapted] = "adapter"
