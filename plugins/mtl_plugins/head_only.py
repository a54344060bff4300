"""Training a head on the support; the encoder stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mtl.meta.scope import Adapted
from mtl.transfer.fine_tuning import FineTuning


@dataclass
class HeadOnly(FineTuning):
    """Train the head alone, on features that are computed once."""

    adapted: ClassVar[Adapted] = "head"
