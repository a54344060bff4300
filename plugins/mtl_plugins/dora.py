"""DoRA: low-rank updates of a weight's direction, and its length apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mtl_plugins.lora import LoRA


@dataclass
class DoRA(LoRA):
    """Train the length of the attention's weights to each output, and their direction by a low-rank update.

    Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation" (arXiv:2402.09353, equation 5). A step costs more than LoRA's.
    """

    def configure(self, peft: Any, **options: Any) -> Any:
        return super().configure(peft, use_dora=True, **options)
