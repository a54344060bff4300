"""LoRA: low-rank updates of the attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from mtl.model.peft_adapter import PeftAdapter


@dataclass
class LoRA(PeftAdapter):
    """Add a product of two thin matrices to the attention's weights (Hu et al. 2022, arXiv:2106.09685, equation 3).

    Args:
        rank: Of the product.
        alpha: The product is scaled by alpha / rank. Default: the rank, a scale of 1.
        dropout: Share of what enters the product that is dropped in training.
    """

    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def configure(self, peft: Any, **options: Any) -> Any:
        alpha = self.rank if self.alpha is None else self.alpha
        return peft.LoraConfig(r=self.rank, lora_alpha=alpha, lora_dropout=self.dropout, **options)
